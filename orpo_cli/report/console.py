"""What people see on standard error, and results on standard output."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console as RichConsole

from orpo_cli.errors import Problem


class _Output(RichConsole):
    """Standard output, whose reader may leave early: ``orpo plan … | head`` is no error."""

    def on_broken_pipe(self) -> None:
        """Print the rest to nowhere; rich would exit with 1."""
        self.quiet = True
        _discard_output()


class Console:
    """Results go to ``out`` (standard output), everything else to ``err`` (standard error).

    ``quiet`` leaves only warnings and errors on standard error. ``as_json`` keeps standard output for one JSON document,
    printed by ``document``. NO_COLOR and missing terminals are honoured by rich.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self.err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.out = _Output(highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something on the way; left out with --quiet."""
        if not self.quiet:
            self.err.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Say something that the user must not miss."""
        self.err.print(f"warning: {text}", style="yellow", markup=False)

    def problem(self, problem: Problem) -> None:
        """Say what is wrong with a recipe, errors and warnings told apart."""
        self.err.print(problem.text(), style="yellow" if problem.severity == "warning" else None, markup=False)

    def result(self, renderable: Any) -> None:
        """Print a result for people; left out with --json."""
        if not self.as_json:
            self.out.print(renderable)

    def document(self, value: dict[str, Any]) -> None:
        """Print the one JSON document of --json; nothing without it."""
        if self.as_json:
            try:
                print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)
            except BrokenPipeError:
                _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
