"""Training curves as one SVG image: loss, preference accuracy and reward margin over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.report.svg_charts import COLOURS, Panel, Points, Series, render_image, thinned
from orpo_cli.rundir import RunDir

PANELS = (
    ("loss", "loss"),
    ("rewards/accuracies", "preference accuracy"),
    ("rewards/margins", "reward margin"),
)
TRAIN, HELD_OUT, *_ = COLOURS
MIN_POINTS = 3  # the results table shows fewer points


def render_curves(rundir: RunDir) -> str | None:
    """The SVG image; None if fewer than three steps were logged."""
    lines = rundir.read_metrics()
    panels = []
    for name, title in PANELS:
        train, held_out = _points(lines, name), _points(lines, f"eval_{name}")
        if max(len(train), len(held_out)) >= MIN_POINTS:
            panels.append(Panel(title, (Series("training", TRAIN, train), Series("held out", HELD_OUT, held_out))))
    return render_image(panels) if panels else None


def write_curves(rundir: RunDir) -> None:
    """Write ``<run>/report/curves.svg``, if there are curves."""
    image = render_curves(rundir)
    if image is not None:
        rundir.report.mkdir(exist_ok=True)
        atomic_write_text(rundir.curves, image)


def _points(lines: Sequence[dict[str, Any]], name: str) -> Points:
    return thinned([(float(line["step"]), float(line[name])) for line in lines if name in line and "step" in line])
