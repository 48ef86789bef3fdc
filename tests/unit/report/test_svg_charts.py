"""Charts as SVG images: curves, intervals, legends, hostile labels."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.recorded_runs import write_recorded_run

from orpo_cli.report.run_history import read_history
from orpo_cli.report.svg_charts import MAX_POINTS, Panel, Series, charts_of_runs, render_image, thinned


def elements(image: str, tag: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(image).iter() if each.tag.rpartition("}")[2] == tag]


def test_each_metric_of_two_runs_is_a_chart_with_a_curve_for_each_run(tmp_path: Path) -> None:
    values = [{"name": (name, "recipe")} for name in ("first", "second")]
    runs = [
        write_recorded_run(tmp_path / str(index), values=each, run={"name": each["name"][0]})
        for index, each in enumerate(values)
    ]
    charts = charts_of_runs([read_history(run) for run in runs])
    assert {"loss", "accuracy", "margin", "learning-rate", "memory"} <= charts.keys()
    assert len(elements(charts["loss"], "polyline")) == 4  # of both runs, in training and held out
    assert len(elements(charts["accuracy"], "polyline")) == 2
    bars = [each for each in elements(charts["accuracy"], "line") if each.get("stroke-opacity")]
    assert len(bars) == 6  # an interval for each evaluation of both runs
    legend = [each.text for each in elements(charts["loss"], "text")][-4:]
    assert legend == ["first, training", "first, held out", "second, training", "second, held out"]


def test_a_legend_below_is_inside_the_image(tmp_path: Path) -> None:
    panel = Panel(
        "loss", [Series(f"a label that is long {index}", "#000", [(1, 1.0), (2, 2.0)]) for index in range(12)]
    )
    image = render_image([panel])
    height = float(ElementTree.fromstring(image).get("height") or 0)
    assert max(float(each.get("y") or 0) for each in elements(image, "text")) < height


def test_a_name_with_control_characters_is_a_valid_image(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", run={"name": "a\x1b[31m\nb\x00\ud800"})
    legend = elements(charts_of_runs([read_history(run)])["loss"], "text")[-1]
    assert legend.text == "a\\x1b[31m\\nb\\x00\\ud800, held out"


def test_labels_are_escaped() -> None:
    image = render_image([Panel("<b>&", [Series("</text><script>", "#000", [(1, 1.0), (2, 2.0)])])])
    assert elements(image, "text")[0].text == "<b>&"
    assert elements(image, "script") == []


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1e-300, 2e-300], [-5.0, 5.0], [1e200, 1.0000001e200], [3.0, 3.0000001]]
)
def test_any_range_of_values_has_round_ticks_inside(values: list[float]) -> None:
    image = render_image([Panel("x", [Series("a", "#000", list(enumerate(values)))])])
    heights = [float(each.get("y1") or 0) for each in elements(image, "line")]
    assert 2 <= len(heights) <= 7
    assert all(30 <= height <= 180 for height in heights)


def test_a_long_curve_is_thinned_and_keeps_its_last_point() -> None:
    points = [(float(step), float(step)) for step in range(5001)]
    assert len(thinned(points)) <= MAX_POINTS
    assert thinned(points)[-1] == points[-1]
    assert thinned([]) == []


def test_a_spike_of_one_step_stays_in_a_thinned_curve() -> None:
    points = [(float(step), 9.0 if step == 5_137 else 1.0 + step % 3 / 10) for step in range(10_000)]
    kept = thinned(points)
    assert (5137.0, 9.0) in kept
    assert kept == sorted(kept)
    assert len(kept) <= MAX_POINTS


def test_runs_without_metrics_have_no_charts(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert charts_of_runs([read_history(run)]) == {}
