"""Display of a training run: on a terminal rows above a line with status, progress and remaining time; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.live import Live
from rich.text import Text

from orpo_cli.errors import Problem
from orpo_cli.report.console import Console
from orpo_cli.report.library_bars import library_bars_as_text
from orpo_cli.report.remaining_time import Activity, RemainingTime, clock_text
from orpo_cli.report.step_table import COLUMNS, StepTable, step_cells
from orpo_cli.run_log import run_log

MAX_WIDTH = 88  # of the last line: a wider one would wrap when the terminal is made narrower
MIN_BAR, MIN_STATUS = 8, 8
GAP = 2
ACTIVITIES: dict[str, Activity] = {"": "step", "evaluating": "evaluation", "saving": "save"}


class TrainingDisplay:
    """Display of steps and evaluations, of what happens before, between and after them, and of the remaining time.

    A training.metrics_log.TrainingObserver and a context manager. Each line of the log stays in the scrollback of a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.table: StepTable | None = None
        self.step = self.total = 0
        self.start = time.monotonic()
        self.left = RemainingTime()
        self._status, self._detail = "starting", ""
        self._context = ExitStack()

    def __enter__(self) -> TrainingDisplay:
        if self.console.shows_progress:
            self.table = StepTable(self.total)
            if not self.console.err.is_dumb_terminal:
                self.live = Live(get_renderable=self._last_line, console=self.console.err, transient=True)
                self._context.enter_context(self.live)
                self.live.refresh()
                self._context.enter_context(library_bars_as_text(self._show_detail))
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()
        self.live = None

    def note(self, text: str) -> None:
        """Print a note above the last line."""
        self.console.note(text)

    def warn(self, problem: Problem) -> None:
        """Print a warning above the last line."""
        self.console.problem(problem)

    def status(self, text: str, detail: str = "") -> None:
        """Show what happens now besides the steps, such as "evaluating"; nothing while a step is computed."""
        if text and text != self._status:
            run_log.write(text)
        self._status, self._detail = text, detail
        self.left.switch(ACTIVITIES.get(text.partition(" ")[0], "other"))

    def begin(
        self, step: int, total: int, evaluations: Sequence[int], saves: Sequence[int], evaluation_cost: float
    ) -> None:
        """Set the step to start from and the schedule; see ``RemainingTime.begin``."""
        self.status("")
        self.step, self.total = step, total
        self.left.begin(step, total, evaluations, saves, evaluation_cost)

    def progress(self, step: int, total: int) -> None:
        """Show that a step is done."""
        self.step, self.total = step, total
        self.left.step_done(step)

    def show_metrics(self, record: dict[str, Any]) -> None:
        """Show a record of metrics.jsonl."""
        values = {name.removeprefix("eval_"): value for name, value in record.items()}
        if "loss" not in values:
            return
        is_evaluation = "eval_loss" in record
        step = int(record["step"])
        line = self._log_line(step, values, is_evaluation)
        self.console.print_line(line, hidden=self.console.quiet or self.table is not None)
        if self.table is not None:
            err = self.console.err
            label = f"eval {step}" if is_evaluation else str(step)
            for row in self.table.rows(label, values, *err.size, is_evaluation=is_evaluation):
                err.print(Text(row.text, row.style))

    def _log_line(self, step: int, values: dict[str, Any], is_evaluation: bool) -> str:
        cells = step_cells(values)
        parts = [f"{title} {cells[name]}" for name, title, _ in COLUMNS if name in cells]
        if is_evaluation:
            return "  ".join([f"eval at step {step}", *parts])
        left = self.left.seconds()
        end = [] if left is None else [f"left {clock_text(left)}"]
        return "  ".join([f"step {step}/{self.total}", *parts, *end])

    def _show_detail(self, text: str) -> None:
        self._detail = text

    def _last_line(self) -> Text:
        """Status, step, bar, elapsed and remaining time. A narrow terminal has no bar, then no elapsed time; a status is shortened."""
        width = min(self.console.err.width, MAX_WIDTH) - 1
        status = self._status_text()
        step = f"step {self.step}/{self.total}" if self.total else ""
        elapsed = f"elapsed {clock_text(time.monotonic() - self.start)}"
        seconds = self.left.seconds() if self.total else None
        left = "" if seconds is None else f"left {clock_text(seconds)}"
        if left and _joined_length(status, step, elapsed, left) > width:
            elapsed = ""
        if status and (space := width - _joined_length(step, elapsed, left) - GAP) < len(status):
            status = status[: space - 1] + self._character("…", ".") if space >= MIN_STATUS else ""
        free = width - _joined_length(status, step, elapsed, left) - GAP
        bar = self._bar(free) if step and free >= MIN_BAR else Text()
        parts = [Text(status, "bold"), Text(step), bar, Text(elapsed), Text(left)]
        line = Text(" " * GAP, no_wrap=True, overflow="crop").join(part for part in parts if part)
        line.truncate(width)
        return line

    def _status_text(self) -> str:
        if not self._status:
            return ""
        frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if self._has_unicode else "|/-\\"
        spinner = frames[int(time.monotonic() * 4) % len(frames)]
        return f"{spinner} {self._status}" + (f" ({self._detail})" if self._detail else "")

    def _bar(self, width: int) -> Text:
        done = width * min(self.step, self.total) // max(1, self.total)
        filled, empty = self._character("━", "#"), self._character("─", "-")
        return Text.assemble((filled * done, "green"), (empty * (width - done), "dim"))

    @property
    def _has_unicode(self) -> bool:
        return self.console.err.encoding.startswith("utf")

    def _character(self, usual: str, ascii_only: str) -> str:
        return usual if self._has_unicode else ascii_only


def _joined_length(*parts: str) -> int:
    present = [len(part) for part in parts if part]
    return sum(present) + GAP * max(0, len(present) - 1)
