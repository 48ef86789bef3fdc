"""How far a longer piece of work is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orpo_cli.report.console import Console

Heard = Callable[[int, int], None]  # (done, of)

SECONDS_BETWEEN_LINES = 10


@contextmanager
def counting(console: Console) -> Iterator[Callable[[str], Heard]]:
    """Bars on a terminal, elsewhere a line now and then. What it yields begins a count with a title."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if console.err.is_terminal and not console.quiet:
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console.err, transient=True) as bars:

            def begin_bar(title: str) -> Heard:
                task = bars.add_task(title, total=None)
                return lambda done, of: bars.update(task, completed=done, total=of)

            yield begin_bar
        return

    def begin_lines(title: str) -> Heard:
        said = time.monotonic()

        def heard(done: int, of: int) -> None:
            nonlocal said
            if done == of or time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                console.note(f"{title}: {done} of {of}")

        return heard

    yield begin_lines
