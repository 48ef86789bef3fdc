"""What people see on standard error, and results on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import Problem, explain_hint
from orpo_cli.secret_values import mask_secrets

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


class Console:
    """Results go to ``out`` (standard output), everything else to ``err`` (standard error).

    ``quiet`` leaves only warnings and errors on standard error. ``as_json`` keeps standard output for one JSON document,
    printed by ``document``. NO_COLOR and missing terminals are honoured by rich, which is imported when something is
    to be coloured or laid out: plain lines for a pipe or a file cost nothing.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json

    @cached_property
    def err(self) -> RichConsole:
        """Standard error, for what plain lines cannot do."""
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, soft_wrap=True)

    @cached_property
    def out(self) -> RichConsole:
        """Standard output, for what plain lines cannot do."""
        from rich.console import Console as RichConsole

        class Output(RichConsole):
            def on_broken_pipe(self) -> None:
                """Discard the rest: ``orpo plan … | head`` is no error, and rich would exit with 1."""
                self.quiet = True
                discard_stdout()

        return Output(highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something on the way; left out with --quiet."""
        if not self.quiet:
            self.print_line(text)

    def warn(self, text: str) -> None:
        """Say something that the user must not miss."""
        self.print_line(f"warning: {text}", style="yellow")

    def problem(self, problem: Problem) -> None:
        """Print one problem of a recipe; warnings are yellow."""
        self.print_line(problem.text(), style="yellow" if problem.severity == "warning" else None)

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print problems and, after the last one, the command that explains them."""
        for problem in problems:
            self.problem(problem)
        if problems:
            self.note(f"  → {explain_hint(problems)}")

    def result(self, renderable: Any) -> None:
        """Print a result for people, text as it is, or a table; left out with --json."""
        if self.as_json:
            return
        if isinstance(renderable, str):
            _print_result(mask_secrets(renderable))
        else:
            self.out.print(renderable)

    def document(self, value: Any) -> None:
        """Print the JSON document of --json: a mapping or a dataclass; nothing without --json."""
        if self.as_json:
            import json

            _print_result(json.dumps(mask_secrets(_json_value(value)), indent=2, ensure_ascii=False))

    def print_line(self, text: str, style: str | None = None) -> None:
        """One line on standard error."""
        text = mask_secrets(text)
        if sys.stderr.isatty():
            self.err.print(text, style=style, markup=False)
        else:
            print(text, file=sys.stderr)


def _json_value(value: Any) -> Any:
    """Plain values: dataclasses as mappings (from their ``as_dict`` where they have one), paths as text."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _print_result(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()


def discard_stdout() -> None:
    """What else is printed goes nowhere: the reader of standard output has left, which is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
