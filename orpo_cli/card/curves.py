"""Training curves as one SVG image: loss, preference accuracy and reward margin over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.rundir import RunDir

PANELS = (
    ("loss", "loss"),
    ("rewards/accuracies", "preference accuracy"),
    ("rewards/margins", "reward margin"),
)
TRAIN, HELD_OUT = "#4269d0", "#e4572e"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 300, 210, 52, 30, 12, 30  # of one panel, in pixels
MIN_POINTS = 3  # the results table shows fewer points
MAX_POINTS = 400  # of one curve; more points would be closer than a pixel

Points = list[tuple[float, float]]  # (step, value)


def render_curves(rundir: RunDir) -> str | None:
    """The SVG image; None if fewer than three steps were logged."""
    lines = rundir.read_metrics()
    panels = []
    for name, title in PANELS:
        train, held_out = _points(lines, name), _points(lines, f"eval_{name}")
        if max(len(train), len(held_out)) >= MIN_POINTS:
            panels.append((title, train, held_out))
    if not panels:
        return None
    width = WIDTH * len(panels)
    rendered = [_panel(index * WIDTH, *panel) for index, panel in enumerate(panels)]
    style = "text{font:11px sans-serif;fill:#444}.t{font-weight:bold}.g{stroke:#ddd}.c{fill:none;stroke-width:1.5}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">',
            f"<style>{style}</style>",
            f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>',
            *rendered,
            "</svg>\n",
        ]
    )


def write_curves(rundir: RunDir) -> None:
    """Write ``<run>/report/curves.svg``, if there are curves."""
    image = render_curves(rundir)
    if image is not None:
        rundir.report.mkdir(exist_ok=True)
        atomic_write_text(rundir.curves, image)


def _points(lines: Sequence[dict[str, Any]], name: str) -> Points:
    points = [(float(line["step"]), float(line[name])) for line in lines if name in line and "step" in line]
    stride = -(-len(points) // MAX_POINTS)
    return points[::-1][:: max(1, stride)][::-1]  # always with the last point


def _panel(x: int, title: str, train: Points, held_out: Points) -> str:
    steps = [step for step, _ in train + held_out]
    values = [value for _, value in train + held_out]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def to_pixels(step: float, value: float) -> tuple[float, float]:
        across = LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x + across, 1), round(down, 1)

    parts = [f'<text class="t" x="{x + LEFT}" y="18">{escape(title)}</text>']
    for value in (low + (high - low) * part for part in (0.05, 0.5, 0.95)):
        left, down = to_pixels(first, value)
        right, _ = to_pixels(last, value)
        parts.append(f'<line class="g" x1="{left}" y1="{down}" x2="{right}" y2="{down}"/>')
        parts.append(f'<text x="{left - 5}" y="{down + 4}" text-anchor="end">{value:.3g}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        across, _ = to_pixels(step, low)
        parts.append(f'<text x="{across}" y="{HEIGHT - 12}" text-anchor="{anchor}">step {step:.0f}</text>')
    for points, colour, name, y in ((train, TRAIN, "training", 14), (held_out, HELD_OUT, "held out", 26)):
        parts += _curve([to_pixels(*point) for point in points], colour)
        if points:
            parts.append(f'<text x="{x + WIDTH - RIGHT}" y="{y}" text-anchor="end" style="fill:{colour}">{name}</text>')
    return "\n".join(parts)


def _curve(pixels: list[tuple[float, float]], colour: str) -> list[str]:
    """A line, with a dot for each point if there are few."""
    elements = []
    if len(pixels) > 1:
        joined = " ".join(f"{across},{down}" for across, down in pixels)
        elements.append(f'<polyline class="c" stroke="{colour}" points="{joined}"/>')
    if len(pixels) <= 20:
        elements += [f'<circle cx="{across}" cy="{down}" r="2.5" fill="{colour}"/>' for across, down in pixels]
    return elements
