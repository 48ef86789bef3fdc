"""Paired comparison of runs: pairs are matched by name, scores are those of `orpo eval` or of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.recorded_runs import write_recorded_run

from orpo_cli.report.paired_comparison import compare_runs, compare_with_base, held_out_scores
from orpo_cli.report.run_history import RunHistory, read_history
from orpo_cli.statistics import PairedComparison

NAMES = ["held.jsonl:1", "held.jsonl:2", "held.jsonl:3", "held.jsonl:3"]


def run_with_scores(root: Path, base: list[float], tuned: list[float], names: list[str] = NAMES) -> RunHistory:
    """A run whose held-out pairs have these margins."""
    run = write_recorded_run(root)
    write_json_lines(
        run / "eval_scores.jsonl", [scores(0, base, names), scores(10, base, names), scores(20, tuned, names)]
    )
    return read_history(run)


def scores(step: int, margins: list[float], names: list[str] = NAMES) -> dict[str, Any]:
    return {"step": step, "dataset": "eval", "pairs": names, "chosen": margins, "rejected": [0.0] * len(margins)}


def test_scores_of_base_and_of_the_last_evaluation(tmp_path: Path) -> None:
    history = run_with_scores(tmp_path / "run", [-1.0, 2.0, 0.5, -3.0], [1.0, 2.0, 0.5, 3.0])
    assert held_out_scores(history, "base")["held.jsonl:1"] == (-1.0, 0.0, 1.0)
    assert held_out_scores(history) == {
        "held.jsonl:1": (1.0, 0.0, 1.0), "held.jsonl:2": (2.0, 0.0, 1.0),
        "held.jsonl:3": (0.5, 0.0, 1.0), "held.jsonl:3#2": (3.0, 0.0, 1.0),
    }  # fmt: skip
    comparison = compare_with_base(history)
    assert isinstance(comparison, PairedComparison)
    assert (comparison.pairs, comparison.won, comparison.lost) == (4, 2, 0)
    assert (comparison.first_accuracy, comparison.second_accuracy) == (0.5, 1.0)


def test_scores_are_those_of_the_saved_weights(tmp_path: Path) -> None:
    best = {"training.load_best_model_at_end": (True, "decided")}
    run = write_recorded_run(tmp_path / "run", values=best, run={"best_checkpoint": "checkpoints/checkpoint-10"})
    write_json_lines(run / "eval_scores.jsonl", [scores(step, [float(step)] * 4) for step in (0, 10, 20)])
    assert held_out_scores(read_history(run))["held.jsonl:1"] == (10.0, 0.0, 1.0)


def test_scores_of_orpo_eval_come_first(tmp_path: Path) -> None:
    history = run_with_scores(tmp_path / "run", [-1.0] * 4, [1.0] * 4)
    entries = [
        {"pair": 0, "row": "held.jsonl:1", "models": {"tuned": {"logps/chosen": -2.0, "logps/rejected": -1.0}}},
        {"pair": 1, "row": "held.jsonl:2", "models": {"tuned": {"logps/chosen": "x"}}},
        "damaged",
    ]
    (history.path / "evaluation.json").write_text(json.dumps({"data": "held-out", "scores": entries}))
    assert held_out_scores(read_history(history.path)) == {"held.jsonl:1": (-2.0, -1.0, 1.0)}
    (history.path / "evaluation.json").write_text(json.dumps({"data": "other.jsonl", "scores": entries}))
    assert held_out_scores(read_history(history.path))["held.jsonl:1"] == (1.0, 0.0, 1.0)


def test_two_runs_are_compared_on_their_common_pairs(tmp_path: Path) -> None:
    first = run_with_scores(tmp_path / "a", [0.0] * 4, [-1.0, 1.0, 1.0, -1.0])
    second = run_with_scores(tmp_path / "b", [0.0] * 3, [2.0, 3.0, -1.0], names=[NAMES[1], NAMES[0], "held.jsonl:9"])
    comparison = compare_runs(first, second)
    assert isinstance(comparison, PairedComparison)
    assert (comparison.pairs, comparison.won, comparison.lost) == (2, 1, 0)
    assert comparison.margin_change == pytest.approx((4.0 + 1.0) / 2)


def test_why_runs_cannot_be_compared(tmp_path: Path) -> None:
    first = run_with_scores(tmp_path / "a", [0.0] * 4, [1.0] * 4)
    without = read_history(write_recorded_run(tmp_path / "b"))
    assert f"orpo eval {tmp_path / 'b'}" in str(compare_runs(first, without))
    assert "`orpo eval" in str(compare_with_base(without))
    other_names = run_with_scores(tmp_path / "c", [0.0], [1.0], names=["x:1"])
    assert "no common pair" in str(compare_runs(first, other_names))
    other_data = run_with_scores(tmp_path / "d", [0.0] * 4, [1.0] * 4)
    report = json.loads((other_data.path / "data_report.json").read_text())
    report["sources"][1]["fingerprint"] = "other"
    (other_data.path / "data_report.json").write_text(json.dumps(report))
    assert "different data" in str(compare_runs(first, other_data))


@pytest.mark.parametrize(
    "line", ["{", '{"step": 20}', '{"step": 20, "pairs": 3, "chosen": [1], "rejected": null}', "[]"]
)
def test_damaged_scores_are_no_scores(tmp_path: Path, line: str) -> None:
    run = write_recorded_run(tmp_path / "run")
    (run / "eval_scores.jsonl").write_text(f"{line}\n")
    assert held_out_scores(read_history(run)) == {}
