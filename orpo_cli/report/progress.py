"""How far a longer piece of work is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orpo_cli.report.console import Console

ProgressCallback = Callable[[int, int], None]  # (done, of)

SECONDS_BETWEEN_LINES = 10


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], ProgressCallback]]:
    """Bars on a terminal, elsewhere a line now and then. What it yields begins a count with a title."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if console.err.is_terminal and not console.quiet:
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console.err, transient=True) as bars:

            def begin_bar(title: str) -> ProgressCallback:
                task = bars.add_task(title, total=None)
                return lambda done, of: bars.update(task, completed=done, total=of)

            yield begin_bar
        return

    def begin_lines(title: str) -> ProgressCallback:
        last_printed = time.monotonic()

        def update(done: int, of: int) -> None:
            nonlocal last_printed
            if done == of or time.monotonic() - last_printed > SECONDS_BETWEEN_LINES:
                last_printed = time.monotonic()
                console.note(f"{title}: {done} of {of}")

        return update

    yield begin_lines
