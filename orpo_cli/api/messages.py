"""Messages of the command line in the terms of a Python program: arguments in place of options, functions in place of commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from orpo_cli.errors import OrpoError, Problem

_COMMAND_LINE = re.compile(r"^ +orpo ", re.MULTILINE)  # of a list of next commands, to be copied to a shell
_QUOTED = re.compile(r"(`[^`]*`)")
_WHOLE_COMMANDS = {
    "`orpo data`": "`plan(…).data`",
    "`orpo train RECIPE --resume auto`": '`train(recipe, resume="auto")`',
    **{f"`orpo {name}`": f"`{name}`" for name in ("train", "plan", "generate", "merge", "export")},
    "`orpo eval`": "`evaluate`",
    "`orpo push-to-hub`": "`push`",
}
_OPTIONS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"^--set (?=.*?: )", re.MULTILINE), "overrides: "),
    (re.compile(r"--set ([\w.]+=[^\s`,;()]*[^\s`,;().:])"), r'overrides=["\1"]'),
    (re.compile(r"--resume (auto|never|PATH|[^\s`:,()]*/[^\s`:,()]*[^\s`:,().])"), r'resume="\1"'),
    (re.compile(r"--allow-changed (\w+)"), r'allow_changed=["\1"]'),
    (re.compile(r'"\] allow_changed=\["'), '", "'),
    (re.compile(r"--(overwrite|force)\b"), r"\1=True"),
    (re.compile(r"--([a-z-]+) ([A-Z]+)\b"), r"--\1=\2"),
    (re.compile(r"(?<!pip install )--([a-z][a-z-]+)"), lambda found: found[1].replace("-", "_")),
    (re.compile(r"(?<![\w-])-o\b"), "output"),
    (re.compile(r"\b([Tt]he same) command\b"), r"\1 call"),
    (re.compile(r", and exits with 0\b"), ""),
    (re.compile(r"Quote it for the shell\."), 'Write it as in overrides=["training.beta=0.2"].'),
)


@contextmanager
def messages_for_python() -> Iterator[None]:
    """Context in which an OrpoError that leaves it names what a Python program can write."""
    try:
        yield
    except OrpoError as error:
        error.message, error.remedy = in_python(error.message), error.remedy and in_python(error.remedy)
        error.args = (error.message,)
        error.problems = tuple(map(problem_in_python, error.problems))
        raise


def problem_in_python(problem: Problem) -> Problem:
    """``problem`` with the terms of a Python program."""
    return replace(problem, message=in_python(problem.message), remedy=problem.remedy and in_python(problem.remedy))


def in_python(text: str) -> str:
    """``text`` with the arguments and functions of Python for options and commands. Other commands in backticks stay as they are."""
    if _COMMAND_LINE.search(text):
        return "\n".join(line if _COMMAND_LINE.match(line) else in_python(line) for line in text.split("\n"))
    text = text.replace("an `orpo train`", "a `orpo train`")
    parts = [_WHOLE_COMMANDS.get(part, part) for part in _QUOTED.split(text)]
    return "".join(part if part.startswith("`") and not part.startswith("`--") else _arguments(part) for part in parts)


def _arguments(text: str) -> str:
    for pattern, replacement in _OPTIONS:
        text = pattern.sub(replacement, text)
    return text
