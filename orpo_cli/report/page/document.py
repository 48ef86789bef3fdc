"""Data of the charts of the report page: for each chart the curves of each run, by step, pairs and hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orpo_cli.json_files import is_number
from orpo_cli.report.run_history import Record, RunHistory
from orpo_cli.report.svg_charts import CHARTS, COLOURS

MAX_POINTS_OF_ALL, MIN_POINTS, MAX_POINTS = 6000, 100, 600  # of one metric, over all runs and of one curve
DIGITS = 6  # significant ones; a chart shows fewer

Point = tuple[Record, float]


def chart_document(histories: Sequence[RunHistory], labels: Sequence[str]) -> dict[str, Any]:
    """The charts in the order of ``CHARTS``, without those that no run has values for.

    A curve has ``run`` (index), ``heldOut``, ``x`` (by ``step``, ``pairs`` and ``hours``; null where it is not recorded), ``y``, and
    for accuracies ``low`` and ``high``.
    """
    limit = max(MIN_POINTS, min(MAX_POINTS, MAX_POINTS_OF_ALL // max(1, len(histories))))
    charts = []
    for name, title, metrics in CHARTS:
        curves = [
            curve
            for index, history in enumerate(histories)
            for metric in metrics
            if (curve := _curve(history, index, metric, limit)) is not None
        ]
        if curves:
            charts.append({"name": name, "title": title, "curves": curves})
    runs = [{"label": label, "colour": COLOURS[index % len(COLOURS)]} for index, label in enumerate(labels)]
    return {"runs": runs, "charts": charts}


def _curve(history: RunHistory, run: int, metric: str, limit: int) -> dict[str, Any] | None:
    points = [(record, value) for record, value in history.points(metric) if is_number(record.get("step"))]
    if not points:
        return None
    points = _thinned(points, limit)
    pairs_per_step = history.values.get("launch.pairs_per_step")
    x: dict[str, list[float | None]] = {"step": [], "pairs": [], "hours": []}
    for record, _ in points:
        pairs, elapsed = record.get("pairs"), record.get("elapsed")
        if not is_number(pairs) and is_number(pairs_per_step):  # a run of an older version
            pairs = record["step"] * pairs_per_step
        x["step"].append(record["step"])
        x["pairs"].append(pairs if is_number(pairs) else None)
        x["hours"].append(_rounded(elapsed / 3600) if is_number(elapsed) else None)
    curve: dict[str, Any] = {
        "run": run, "heldOut": metric.startswith("eval."), "x": x, "y": [_rounded(value) for _, value in points],
    }  # fmt: skip
    if metric == "eval.accuracy":
        intervals = [history.accuracy_interval(record) or (None, None) for record, _ in points]
        curve["low"], curve["high"] = (
            [None if end is None else _rounded(end) for end in ends] for ends in zip(*intervals, strict=True)
        )
    return curve


def _thinned(points: list[Point], limit: int) -> list[Point]:
    """At most about ``limit`` points: the lowest and the highest one of each part, so that spikes stay, and the last one."""
    if len(points) <= limit:
        return points
    size = -(-len(points) // (limit // 2 - 1))
    kept: set[int] = {len(points) - 1}
    for start in range(0, len(points), size):
        part = range(start, min(start + size, len(points)))
        kept |= {min(part, key=lambda index: points[index][1]), max(part, key=lambda index: points[index][1])}
    return [points[index] for index in sorted(kept)]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
