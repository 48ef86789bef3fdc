"""Live display of a training run: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from orpo_cli.errors import Problem
from orpo_cli.report.console import Console

COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("nll_loss", "NLL", "{:.4f}"),
    ("log_odds_ratio", "log OR", "{:.4f}"),
    ("rewards/accuracies", "accuracy", "{:.2f}"),
    ("rewards/margins", "margin", "{:.4f}"),
    ("grad_norm", "grad norm", "{:.3f}"),
    ("learning_rate", "lr", "{:.2e}"),
    ("tokens_per_second", "tok/s", "{:.0f}"),
    ("memory_gb", "GB", "{:.2f}"),
)
MAX_ROWS = 8


class TrainingDisplay:
    """Display of steps with loss, NLL, log odds ratio, preference accuracy, margin, speed, memory and remaining time.

    A training.metrics_log.TrainingObserver and a context manager.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.step = self.total = 0
        self.start = time.monotonic()
        self.first_step: int | None = None
        self.bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TextColumn("elapsed"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console.err,
        )  # fmt: skip
        self.task = self.bar.add_task("training", total=None)

    def __enter__(self) -> TrainingDisplay:
        if self.console.err.is_terminal and not self.console.quiet:
            self.live = Live(get_renderable=self._view, console=self.console.err)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def note(self, text: str) -> None:
        """Print a note above the table."""
        self.console.note(text)

    def warn(self, problem: Problem) -> None:
        """Print a warning above the table."""
        self.console.problem(problem)

    def progress(self, step: int, total: int) -> None:
        """Update the bar after a step."""
        if self.first_step is None:
            self.first_step = step - 1
        self.step, self.total = step, total
        self.bar.update(self.task, completed=step, total=total)

    def show_metrics(self, record: dict[str, Any]) -> None:
        """Show a record of metrics.jsonl."""
        values = {name.removeprefix("eval_"): value for name, value in record.items()}
        if "loss" not in values:
            return
        is_evaluation = "eval_loss" in record
        if self.live is not None:
            row = ("eval" if is_evaluation else str(record["step"]), values)
            self.rows = [*self.rows[1 - MAX_ROWS :], row]
        line = self._line(record["step"], values, is_evaluation)
        self.console.print_line(line, hidden=self.console.quiet or self.live is not None)

    def _line(self, step: int, values: dict[str, Any], is_evaluation: bool) -> str:
        parts = [f"{title} {form.format(values[name])}" for name, title, form in COLUMNS if name in values]
        if is_evaluation:
            return "  ".join([f"eval at step {step}", *parts])
        return "  ".join([f"step {step}/{self.total}", *parts, f"left {self._remaining_time(step)}"])

    def _remaining_time(self, step: int) -> str:
        done = step - (self.first_step or 0)
        seconds = (time.monotonic() - self.start) / max(done, 1) * (self.total - step)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

    def _view(self) -> Group:
        titles = ("step", *(title for _, title, _ in COLUMNS))
        columns = (Column(title, justify="right") for title in titles)
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for step, values in self.rows:
            cells = [form.format(values[name]) if name in values else "" for name, _, form in COLUMNS]
            table.add_row(step, *cells, style="cyan" if step == "eval" else None)
        return Group(table, self.bar)
