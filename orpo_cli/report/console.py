"""Console output: results on standard output, notes, warnings and errors on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.control_characters import escape_controls, escape_json_controls, one_line
from orpo_cli.errors import MachineError, Problem, explain_hint
from orpo_cli.redaction import redact
from orpo_cli.secret_values import mask_secrets

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


class Console:
    """Console of one command. Secrets are masked, and control characters of names, data and models are shown as escapes.

    A result that is a plain text stays exact in a pipe or a file, except for known secrets.

    ``quiet`` prints only warnings and errors to standard error. ``as_json`` reserves standard output for one JSON document.
    rich, which respects NO_COLOR, is imported only for colours and layout, because the import takes time.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json

    @cached_property
    def err(self) -> RichConsole:
        """Standard error with colours and layout."""
        from orpo_cli.report.rich_console import SafeConsole

        return SafeConsole(stderr=True, highlight=False, soft_wrap=True)

    @cached_property
    def out(self) -> RichConsole:
        """Standard output with colours and layout."""
        from orpo_cli.report.rich_console import SafeConsole

        class Output(SafeConsole):
            def on_broken_pipe(self) -> None:
                """Discard the rest of the output: ``orpo plan … | head`` is not an error, but rich would exit with 1."""
                self.quiet = True
                discard_stdout()

        return Output(highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a note, unless --quiet is set."""
        if not self.quiet:
            self.print_line(text)

    def warn(self, text: str) -> None:
        """Print a warning, also with --quiet."""
        self.print_line(f"warning: {text}", style="yellow")

    def problem(self, problem: Problem) -> None:
        """Print one problem, then the command that explains it."""
        self.problems([problem])

    def problems(self, problems: Sequence[Problem]) -> None:
        """Print problems, then the command that explains them."""
        for problem in problems:
            self.print_line(problem.text(), style="yellow" if problem.severity == "warning" else None)
        if problems:
            self.note(f"  → {explain_hint(problems)}")

    def result(self, renderable: Any) -> None:
        """Print a result, a text or a rich renderable, unless --json is set."""
        if self.as_json:
            return
        if isinstance(renderable, str):
            text = mask_secrets(renderable)
            _print_result(escape_controls(text) if sys.stdout is not None and sys.stdout.isatty() else text)
        else:
            with _writing_stdout():
                self.out.print(renderable)

    def exact(self, text: str) -> None:
        """Write a text to standard output as it is, in UTF-8 for any encoding of the terminal."""
        if sys.stdout is not None:  # None: closed by the caller
            with _writing_stdout():
                sys.stdout.flush()
                sys.stdout.buffer.write(text.encode())
                sys.stdout.buffer.flush()

    def document(self, value: Any) -> None:
        """Print the JSON document of --json: a mapping or a dataclass; nothing without --json."""
        if self.as_json:
            import json

            document = json.dumps(mask_secrets(_json_value(value)), indent=2, ensure_ascii=False)
            _print_result(escape_json_controls(document))

    def print_line(self, text: str, style: str | None = None) -> None:
        """Print one line to standard error."""
        text = one_line(redact(text))
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
    with _writing_stdout():
        print(text, flush=True)


@contextmanager
def _writing_stdout() -> Iterator[None]:
    """A closed pipe is no error: its reader needs no more. Raises MachineError where the disk of a redirection is full."""
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
    except OSError as error:
        discard_stdout()
        raise MachineError(
            f"the result cannot be written to standard output: {error.strerror or error}.",
            remedy="Free some space, or redirect the output to another place.",
        ) from error


def discard_stdout() -> None:
    """Discard further output, after an error of standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
