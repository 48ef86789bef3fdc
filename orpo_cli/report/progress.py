"""Progress of long operations: bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orpo_cli.control_characters import one_line
from orpo_cli.redaction import redact
from orpo_cli.report.console import Console

ProgressCallback = Callable[[int, int], None]  # (done, total)

SECONDS_BETWEEN_LINES = 10


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], ProgressCallback]]:
    """Yield a function that starts a progress display with a title and returns its ProgressCallback."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if console.err.is_terminal and not console.quiet:
        columns = (
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console.err, transient=True) as bars:

            def start_bar(title: str) -> ProgressCallback:
                task = bars.add_task(one_line(redact(title)), total=None)
                return lambda done, total: bars.update(task, completed=done, total=total)

            yield start_bar
        return

    def start_lines(title: str) -> ProgressCallback:
        last_printed = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal last_printed
            if done == total or time.monotonic() - last_printed > SECONDS_BETWEEN_LINES:
                last_printed = time.monotonic()
                console.note(f"{title}: {done} of {total}")

        return update

    yield start_lines
