"""Standard output for tables and coloured text."""

from __future__ import annotations

from rich.console import Console as RichConsole

from orpo_cli.report.console import discard_output


class Output(RichConsole):
    """Standard output, whose reader may leave early: ``orpo plan … | head`` is no error."""

    def on_broken_pipe(self) -> None:
        """Print the rest to nowhere; rich would exit with 1."""
        self.quiet = True
        discard_output()
