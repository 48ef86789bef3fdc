"""Console output: results on standard output, notes, warnings and errors on standard error."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from orpo_cli.control_characters import escape_controls, escape_json_controls, message_lines
from orpo_cli.errors import Problem, explain_hint
from orpo_cli.redaction import redact
from orpo_cli.run_log import run_log
from orpo_cli.secret_values import mask_secrets

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.text import Text

WARNING_LABEL, WARNING_STYLE = "warning:", "bold magenta"  # readable on white and on black, unlike yellow
BAR_STYLES = {
    "progress.remaining": "none",
    "progress.download": "none",
    "progress.spinner": "none",
}  # rich's are cyan and green


class Console:
    """Console of one command. Secrets are masked, and control characters of names, data and models are shown as escapes.

    A result that is a plain text stays exact in a pipe or a file, except for known secrets.

    ``quiet`` prints only warnings and errors to standard error, ``log_only`` nothing: the lines go to the log. ``as_json`` reserves standard output for one JSON document.
    rich, which respects NO_COLOR, is imported only for colours and layout, because the import takes time.
    """

    has_printed_document = False  # of this process
    _reserved_output: ClassVar[TextIO | None] = None

    def __init__(self, *, quiet: bool = False, as_json: bool = False, log_only: bool = False) -> None:
        self.quiet = quiet
        self.log_only = log_only
        self.as_json = as_json

    @classmethod
    @contextmanager
    def reserving_standard_output(cls) -> Iterator[None]:
        """Within, standard output is for results alone: what libraries print goes to standard error."""
        before, cls._reserved_output = cls._reserved_output, cls._reserved_output or sys.stdout
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            cls._reserved_output = before

    @property
    def stdout(self) -> TextIO:
        """The stream of results."""
        return self._reserved_output or sys.stdout

    @cached_property
    def err(self) -> RichConsole:
        """Standard error with colours and layout, for texts without secrets and control characters, and for numbers.

        It masks nothing itself, because a live display prints its table many times per second.
        """
        from rich.console import Console as RichConsole
        from rich.theme import Theme

        return RichConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False, theme=Theme(BAR_STYLES))

    @cached_property
    def out(self) -> RichConsole:
        """Standard output with colours and layout."""
        from orpo_cli.report.rich_console import SafeConsole

        return SafeConsole(file=self._reserved_output, highlight=False, soft_wrap=True, emoji=False)

    @property
    def shows_progress(self) -> bool:
        """Whether a person sees standard error, and wants to see more than warnings. FORCE_COLOR makes no terminal of a pipe."""
        return sys.stderr.isatty() and self.err.is_terminal and not (self.quiet or self.log_only)

    def note(self, text: str) -> None:
        """Print a note, unless --quiet is set."""
        self.print_line(text, hidden=self.quiet)

    def warn(self, text: str) -> None:
        """Print a warning, also with --quiet."""
        self.print_line(f"{WARNING_LABEL} {text}", style=WARNING_STYLE)

    def problem(self, problem: Problem) -> None:
        """Print one problem, then the command that explains it."""
        self.problems([problem])

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print problems, then the command that explains them."""
        for problem in problems:
            self.print_line(problem.text(), style=WARNING_STYLE if problem.severity == "warning" else None)
        if problems:
            self.note(f"  → {explain_hint(problems)}")

    def result(self, renderable: Any) -> None:
        """Print a result, a text or a rich renderable, unless --json is set."""
        if self.as_json:
            return
        if isinstance(renderable, str):
            text = mask_secrets(renderable)
            print(escape_controls(text) if self.stdout.isatty() else text, file=self.stdout, flush=True)
        else:
            self.out.print(renderable)

    def exact(self, text: str) -> None:
        """Write a text to standard output as it is, in UTF-8 for any encoding of the terminal."""
        self.stdout.flush()
        self.stdout.buffer.write(text.encode())
        self.stdout.buffer.flush()

    def document(self, value: Any) -> None:
        """Print the JSON document of --json: a mapping or a dataclass; nothing without --json."""
        if self.as_json:
            import json

            Console.has_printed_document = True
            plain = mask_secrets(_json_value(value))
            text = json.dumps(plain, indent=2, ensure_ascii=False)
            try:
                text.encode(self.stdout.encoding)
            except UnicodeEncodeError:  # an encoding without these characters, or a file name that is no text
                text = json.dumps(plain, indent=2)
            print(escape_json_controls(text), file=self.stdout, flush=True)

    def print_line(self, text: str, style: str | None = None, *, hidden: bool = False) -> None:
        """Print one line to standard error and to the log of the run, or with ``hidden`` only to the log.

        ``style``: of the label of a warning, or of all of a line without one. On a terminal lines end between words, and a path
        that is longer than a line is not divided.
        """
        text = message_lines(redact(text))
        run_log.write(text)
        if hidden or self.log_only:
            return
        if sys.stderr.isatty():
            for line in text.split("\n"):
                self.err.print(_styled(wrap_words(line, self.err.width), style))
        else:
            print(text, file=sys.stderr)


def wrap_words(line: str, width: int) -> str:
    """``line`` in lines of less than ``width`` characters, indented as it is; a word or path that is longer is not divided."""
    indent = line[: len(line) - len(line.lstrip(" "))]
    wrapped = textwrap.wrap(
        line,
        max(1, width - 1),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(wrapped)


def _styled(line: str, style: str | None) -> Text:
    from rich.text import Text

    text = Text(line)
    if style is not None:
        start = line.find(WARNING_LABEL)
        text.stylize(style, max(0, start), len(line) if start < 0 else start + len(WARNING_LABEL))
    return text


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
