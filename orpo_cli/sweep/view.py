"""View of a sweep: one line for each trial, live on a terminal, as a table at the end; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from orpo_cli.control_characters import one_line
from orpo_cli.report.console import Console
from orpo_cli.report.remaining_time import duration_text
from orpo_cli.sweep.record import State, TrialState
from orpo_cli.sweep.results import Result, score_text
from orpo_cli.sweep.scores import Metric, Score, TrialProgress
from orpo_cli.sweep.trials import Trial

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

STYLES = {
    State.RUNNING: "bold",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.STOPPED: "dim",
    State.WAITING: "dim",
}
MAX_LINES = 24  # of the live display; others are counted


class SweepDisplay:
    """Display of a running sweep: a ``scheduler.Reporter`` and a context manager."""

    def __init__(
        self,
        console: Console,
        states: Sequence[TrialState],
        progress: Callable[[Trial], TrialProgress],
        metric: Metric,
        total: int,
    ) -> None:
        self.console, self.states, self.progress, self.metric, self.total = console, states, progress, metric, total
        self.live: Live | None = None
        self.started_at: dict[str, float] = {}
        self.best: tuple[str, Score] | None = None

    def __enter__(self) -> SweepDisplay:
        if self.console.err.is_terminal and not self.console.quiet:
            from rich.live import Live

            self.live = Live(get_renderable=self._view, console=self.console.err, refresh_per_second=2, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def note(self, text: str) -> None:
        """Print a message above the lines of the trials."""
        self.console.note(text)

    def started(self, state: TrialState) -> None:
        """Print that a trial is started."""
        self.started_at[state.trial.name] = time.monotonic()
        if self.live is None:
            number = sum(each.state is not State.WAITING for each in self.states)
            self.console.note(f"{state.trial.name}: started ({number} of {self.total})")

    def evaluated(self, state: TrialState, score: Score) -> None:
        """Print a new evaluation, and the best so far."""
        best = None if self.best is None else self.best[1].sort_key(self.metric)
        if score.value(self.metric) is not None and (best is None or score.sort_key(self.metric) > best):
            self.best = state.trial.name, score
        if self.live is None:
            steps = f"/{state.steps}" if state.steps else ""
            text = f"{state.trial.name}: step {score.step}{steps}: {score_text(score, self.metric)}"
            best_value = (
                "" if self.best is None else f" (best so far: {self.best[1].value(self.metric):.3f}, {self.best[0]})"
            )
            self.console.note(text + best_value)

    def ended(self, state: TrialState) -> None:
        """Print how a trial has ended; a failure also with --quiet."""
        reason = f": {state.reason}" if state.reason else f" in {duration_text(state.seconds)}"
        text = f"{state.trial.name}: {state.state.value}{reason}"
        if state.state is State.FAILED:
            self.console.warn(text)
        else:
            self.console.note(text)

    def _best_text(self) -> str:
        return "none" if self.best is None else f"{self.best[0]} ({score_text(self.best[1], self.metric)})"

    def _view(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        states = list(self.states)
        shown = states
        if len(states) > MAX_LINES:
            order = (State.RUNNING, State.FINISHED)
            shown = sorted(states, key=lambda each: order.index(each.state) if each.state in order else len(order))
            shown = shown[:MAX_LINES]
        table = trial_table([self._row(each) for each in shown], self.console.err.width, self.metric)
        lines = [Text(f"… and {len(states) - len(shown)} more")] if len(states) > len(shown) else []
        return Group(table, *lines, Text(one_line(f"best so far: {self._best_text()}")))

    def _row(self, state: TrialState) -> dict[str, Any]:
        progress = self.progress(state.trial)
        row = state_row(state)
        row["step"] = _step_text(progress.step, progress.steps)
        if progress.scores:
            row |= score_row(progress.scores[-1], self.metric)
        if state.state is State.RUNNING:
            row["seconds"] = state.seconds + time.monotonic() - self.started_at.get(state.trial.name, time.monotonic())
        return row


def result_table(
    states: Sequence[TrialState],
    ranked: Sequence[Result],
    progress: Callable[[Trial], TrialProgress],
    metric: Metric,
    width: int | None,
) -> RenderableType:
    """The table of the results: the finished trials, the best first, then the others."""
    results = {each.name: each for each in ranked}
    order = [each.state for each in ranked] + [each for each in states if each.trial.name not in results]
    rows = []
    for state in order:
        row, done = state_row(state), progress(state.trial)
        row["step"] = _step_text(done.step, done.steps)
        result = results.get(state.trial.name)
        if result is not None:
            row |= score_row(result.score, metric)
            row["difference"] = "best" if result is ranked[0] else _difference(result, metric)
        elif done.scores:
            row |= score_row(done.scores[-1], metric)
        rows.append(row)
    return trial_table(rows, width, metric)


def state_row(state: TrialState) -> dict[str, Any]:
    """The cells of a trial that its state gives."""
    return {"name": state.trial.name, "state": state.state, "seconds": state.seconds}


def score_row(score: Score, metric: Metric) -> dict[str, Any]:
    """The cells of a trial that a score gives."""
    interval = score.interval(metric)
    return {
        "accuracy": "" if score.accuracy is None else f"{score.accuracy:.3f}",
        "margin": "" if score.margin is None else f"{score.margin:.3f}",
        "interval": "" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}",
    }


_COLUMNS = (
    "state",
    "accuracy",
    "margin",
    "step",
    "interval",
    "difference",
    "time",
)  # a narrow terminal loses the last ones
_TITLES = {"difference": "against the best"}
_LEFT = ("state", "difference")
_MIN_NAME = 24  # of a name that is divided into lines, at its commas first


def trial_table(rows: Sequence[dict[str, Any]], width: int | None, metric: Metric) -> RenderableType:
    """A table with the trials, each on one line unless its name is too long. The interval is that of the metric; a column that is empty is left out.

    ``width``: None for a table with all columns, as in a pipe.
    """
    from rich.table import Column, Table
    from rich.text import Text

    titles = {name: f"{metric.value} 95%" if name == "interval" else _TITLES.get(name, name) for name in _COLUMNS}
    for row in rows:
        row["time"] = _time_text(row["seconds"])
    sizes = {
        name: max(len(titles[name]), *(len(_cell(row.get(name))) for row in rows))
        for name in _COLUMNS
        if any(row.get(name) for row in rows)
    }
    names = [one_line(row["name"]) for row in rows]
    name_size = max([5, *map(len, names)])
    while width is not None and sizes and min(name_size, _MIN_NAME) + sum(size + 2 for size in sizes.values()) > width:
        sizes.popitem()
    if width is not None:
        space = max(1, width - sum(size + 2 for size in sizes.values()))
        if name_size > space:
            names = [name.replace(",", ",\n") for name in names]
            name_size = min(space, max(5, *(len(line) for name in names for line in name.split("\n"))))
    columns = [Column("trial", width=name_size, overflow="fold")]
    columns += [
        Column(titles[name], width=size, justify="left" if name in _LEFT else "right", no_wrap=True)
        for name, size in sizes.items()
    ]
    table = Table(
        *columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0),
        width=name_size + sum(size + 2 for size in sizes.values()),
    )  # fmt: skip
    for name, row in zip(names, rows, strict=True):
        table.add_row(Text(name), *(Text(_cell(row.get(each))) for each in sizes), style=STYLES.get(row["state"]))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else value.value if isinstance(value, State) else str(value)


def _difference(result: Result, metric: Metric) -> str:
    """The difference from the winner on the same pairs."""
    comparison = result.comparison
    if comparison is None:
        return "worse" if result.is_worse else "not distinguishable"
    if metric is Metric.ACCURACY:
        text = f"{comparison.won} won, {comparison.lost} lost, p {comparison.p_value:.2g}"
    else:
        low, high = comparison.margin_interval or (float("nan"), float("nan"))
        text = f"{comparison.margin_change:+.3f} [{low:.3f}, {high:.3f}]"
    return text


def _step_text(step: int, steps: int | None) -> str:
    return f"{step}/{steps}" if steps else str(step) if step else ""


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}" if seconds else ""
    )
