"""Progress of long operations: a status or bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from orpo_cli.control_characters import one_line
from orpo_cli.redaction import redact
from orpo_cli.report.console import Console


class ProgressCallback(Protocol):
    """Update of a progress display, with a detail such as the speed."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Show it."""


SECONDS_BETWEEN_LINES = 10
SECONDS_OF_SPEED = 3600  # that an estimate of the remaining time looks back; with rich's 30 it has none for slow steps


@contextmanager
def show_status(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what the command is doing, beside a spinner; nothing where there is no terminal.

    Bars of the libraries, such as that of a download, are shown there, too.
    """
    if not console.shows_progress or console.err.is_dumb_terminal:
        yield lambda text: None
        return
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.text import Text

    from orpo_cli.report.library_bars import library_bars_as_text

    spinner = Spinner("dots" if console.err.encoding.startswith("utf") else "line")

    def show(text: str) -> None:
        spinner.update(text=Text(one_line(redact(text)), no_wrap=True, overflow="ellipsis"))

    with Live(spinner, console=console.err, transient=True), library_bars_as_text(show):
        yield show


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], ProgressCallback]]:
    """Yield a function that starts a progress display with a title and returns its ProgressCallback."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from orpo_cli.report.library_bars import library_bars_as_text

    if console.shows_progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        with Progress(*columns, console=console.err, transient=True, speed_estimate_period=SECONDS_OF_SPEED) as bars:

            def start_bar(title: str) -> ProgressCallback:
                task = bars.add_task(one_line(redact(title)), total=None, detail="")

                def update(done: int, total: int, detail: str = "") -> None:
                    bars.update(task, completed=done, total=total, detail=detail)

                return update

            of_library = bars.add_task("", visible=False, detail="")
            with library_bars_as_text(lambda text: bars.update(of_library, description=text, visible=bool(text))):
                yield start_bar
        return

    def start_lines(title: str) -> ProgressCallback:
        last_printed = time.monotonic()

        def update(done: int, total: int, detail: str = "") -> None:
            nonlocal last_printed
            if done == total or time.monotonic() - last_printed > SECONDS_BETWEEN_LINES:
                last_printed = time.monotonic()
                console.note(f"{title}: {done} of {total}" + (f", {detail}" if detail else ""))

        return update

    yield start_lines
