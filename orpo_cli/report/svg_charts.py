"""Line charts as SVG images, for model cards and papers: without a library, with the fonts of the reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from orpo_cli.report.run_differences import run_labels
from orpo_cli.report.run_history import RunHistory

COLOURS = ("#4269d0", "#e4572e", "#3ca951", "#a463f2", "#9c6b4e", "#efb118", "#ff8ab7", "#6cc5b0", "#97bbf5", "#9498a0")
LEFT, TOP, RIGHT, BOTTOM = 52, 30, 12, 30  # of one panel, in pixels
LEGEND_ROW, MAX_LEGEND_IN_TITLE = 14, 12  # pixels; characters of a label beside the title
MAX_POINTS = 400  # of one curve; more points would be closer than a pixel
STYLE = "text{font:11px sans-serif;fill:#444}.t{font-weight:bold}.g{stroke:#ddd}.c{fill:none;stroke-width:1.5}"

Points = list[tuple[float, float]]  # (step, value)

# Charts of `orpo report --svg`: file name, title, metrics of the logged steps and of the evaluations.
CHARTS = (
    ("loss", "loss", ("loss", "eval.loss")),
    ("nll", "NLL per token", ("nll_loss", "eval.nll_loss")),
    ("log-odds-ratio", "log-sigmoid of the log odds ratio", ("log_odds_ratio", "eval.log_odds_ratio")),
    ("accuracy", "preference accuracy on held-out pairs", ("eval.accuracy",)),
    ("margin", "margin in log-probability", ("margin", "eval.margin")),
    ("logps-chosen", "log-probability of chosen", ("logps/chosen", "eval.chosen")),
    ("logps-rejected", "log-probability of rejected", ("logps/rejected", "eval.rejected")),
    ("learning-rate", "learning rate", ("learning_rate",)),
    ("gradient-norm", "gradient norm", ("grad_norm",)),
    ("tokens-per-second", "tokens per second", ("tokens_per_second",)),
    ("memory", "peak memory in GB", ("memory_gb",)),
)


@dataclass(frozen=True)
class Series:
    """One curve. ``intervals``: (step, low, high) of values that are estimates."""

    label: str
    colour: str
    points: Points
    intervals: Sequence[tuple[float, float, float]] = ()
    faint: bool = False  # a noisy curve behind others


@dataclass(frozen=True)
class Panel:
    """One chart with its curves."""

    title: str
    series: Sequence[Series]


def thinned(points: Points) -> Points:
    """At most ``MAX_POINTS`` of the points: the lowest and the highest one of each part, so that spikes stay, and the last one."""
    if len(points) <= MAX_POINTS:
        return points
    size = -(-len(points) // (MAX_POINTS // 2 - 1))
    kept: Points = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        kept += sorted({min(part, key=_value), max(part, key=_value)})
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _value(point: tuple[float, float]) -> float:
    return point[1]


def render_image(panels: Sequence[Panel], *, width: int = 300, height: int = 210) -> str:
    """The SVG image with the panels side by side. ``width`` and ``height``: of one panel without a legend below."""
    below = max((len(_legend(panel)) for panel in panels if _is_below(panel)), default=0) * LEGEND_ROW
    total, rendered = (
        width * len(panels),
        [_panel(index * width, panel, width, height) for index, panel in enumerate(panels)],
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + below}" width="{total}" height="{height + below}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{total}" height="{height + below}" fill="#fff"/>',
            *rendered,
            "</svg>\n",
        ]
    )


def charts_of_runs(histories: Sequence[RunHistory]) -> dict[str, str]:
    """The SVG image of each chart that the runs have values for, by the name of its file without ``.svg``."""
    labels = run_labels(histories)
    images = {}
    for name, title, metrics in CHARTS:
        series = [
            each
            for index, (history, label) in enumerate(zip(histories, labels, strict=True))
            for each in _series_of_run(history, label, COLOURS[index % len(COLOURS)], metrics)
        ]
        if series:
            images[name] = render_image([Panel(title, series)], width=480, height=300)
    return images


def _series_of_run(history: RunHistory, label: str, colour: str, metrics: Sequence[str]) -> list[Series]:
    found = []
    for metric in metrics:
        records = history.points(metric)
        if not records:
            continue
        intervals = []
        if metric == "eval.accuracy":
            known = [(record["step"], history.accuracy_interval(record)) for record, _ in records]
            intervals = [(step, *interval) for step, interval in known if interval is not None]
        held_out = metric.startswith("eval.")
        suffix = "" if len(metrics) == 1 else ", held out" if held_out else ", training"
        points = thinned([(float(record["step"]), value) for record, value in records if "step" in record])
        found.append(Series(f"{label}{suffix}", colour, points, intervals, faint=not held_out and len(metrics) > 1))
    return found


def _is_below(panel: Panel) -> bool:
    return len(_legend(panel)) > 2 or any(len(each.label) > MAX_LEGEND_IN_TITLE for each in panel.series)


def _legend(panel: Panel) -> list[Series]:
    return [each for each in panel.series if each.points]


def _panel(x: int, panel: Panel, width: int, height: int) -> str:
    steps = [step for each in panel.series for step, _ in each.points]
    values = [value for each in panel.series for _, value in each.points]
    values += [end for each in panel.series for interval in each.intervals for end in interval[1:]]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def to_pixels(step: float, value: float) -> tuple[float, float]:
        across = LEFT + (step - first) / (last - first) * (width - LEFT - RIGHT)
        down = TOP + (high - value) / (high - low) * (height - TOP - BOTTOM)
        return round(x + across, 1), round(down, 1)

    parts = [f'<text class="t" x="{x + LEFT}" y="18">{escape(panel.title)}</text>']
    for value in _ticks(low, high):
        left, down = to_pixels(first, value)
        right, _ = to_pixels(last, value)
        parts.append(f'<line class="g" x1="{left}" y1="{down}" x2="{right}" y2="{down}"/>')
        parts.append(f'<text x="{left - 5}" y="{down + 4}" text-anchor="end">{value:.6g}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        across, _ = to_pixels(step, low)
        parts.append(f'<text x="{across}" y="{height - 12}" text-anchor="{anchor}">step {step:.0f}</text>')
    for index, each in enumerate(panel.series):
        shift = 3 * (index - (len(panel.series) - 1) / 2)  # intervals of several curves at one step side by side
        for interval in each.intervals:
            (across, bottom), (_, top) = (to_pixels(interval[0], end) for end in interval[1:])
            ends = f'x1="{across + shift}" y1="{bottom}" x2="{across + shift}" y2="{top}"'
            parts.append(f'<line {ends} stroke="{each.colour}" stroke-opacity="0.6"/>')
        parts += _curve([to_pixels(*point) for point in each.points], each)
    for index, each in enumerate(_legend(panel)):
        if _is_below(panel):
            position = f'x="{x + LEFT}" y="{height + 6 + LEGEND_ROW * index}"'
        else:
            position = f'x="{x + width - RIGHT}" y="{14 + 12 * index}" text-anchor="end"'
        parts.append(f'<text {position} style="fill:{each.colour}{_opacity(each)}">{escape(each.label)}</text>')
    return "\n".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values between ``low`` and ``high``."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough), 10 * power)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _opacity(series: Series) -> str:
    return ";opacity:0.5" if series.faint else ""


def _curve(pixels: list[tuple[float, float]], series: Series) -> list[str]:
    """A line, with a dot for each point if there are few."""
    elements = []
    opacity = ' opacity="0.5"' if series.faint else ""
    if len(pixels) > 1:
        joined = " ".join(f"{across},{down}" for across, down in pixels)
        elements.append(f'<polyline class="c" stroke="{series.colour}" points="{joined}"{opacity}/>')
    if len(pixels) <= 20:
        elements += [
            f'<circle cx="{across}" cy="{down}" r="2.5" fill="{series.colour}"{opacity}/>' for across, down in pixels
        ]
    return elements
