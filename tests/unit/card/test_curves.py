"""Training curves of a model card."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.card_run import make_card_run
from support.json_lines import write_json_lines

from orpo_cli.card.curves import render_curves
from orpo_cli.card.model_card import write_card
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_card_run(tmp_path / "run")


def log(run: RunDir, steps: int) -> None:
    lines = [
        {"step": step, "loss": 3 / step, "rewards/accuracies": 0.5, "eval_loss": 2.0} for step in range(1, steps + 1)
    ]
    write_json_lines(run.metrics, lines)


def test_curves_are_an_svg_image_that_the_card_shows(run):
    assert render_curves(run) is None  # two steps are no curve
    log(run, 12)
    run.adapter.mkdir()
    write_card(run)
    root = ElementTree.fromstring(run.curves.read_text())
    lines = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 3  # loss in training and held out, accuracy
    first = lines[0].get("points").split()
    assert len(first) == 12
    heights = [float(point.partition(",")[2]) for point in first]
    assert heights == sorted(heights)  # the loss falls, and y grows downwards
    assert "](report/curves.svg)" in run.card.read_text()


def test_curves_of_a_long_run_have_at_most_400_points(run):
    log(run, 5000)
    root = ElementTree.fromstring(render_curves(run))
    points = next(element for element in root.iter() if element.tag.endswith("polyline")).get("points").split()
    assert 200 <= len(points) <= 400
