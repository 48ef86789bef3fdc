"""Scores of trials: what is read from a run, and when one is worse than another by more than chance explains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.report.pair_scores import PairScore, Scores, scores_of_evaluation
from orpo_cli.sweep.scores import Metric, ProgressReader, Score, compare, final_score, is_worse, read_progress

ACCURACY, MARGIN = Metric.ACCURACY, Metric.MARGIN


def score(right: int, pairs: int = 64, *, margin: float = 0.5, named: bool = True) -> Score:
    margins = [margin + index / 1000 if index < right else -margin for index in range(pairs)]
    scores = {f"pair {index}": PairScore(margin, 0.0) for index, margin in enumerate(margins)}
    return Score(8, 0.5, pairs, right / pairs, sum(margins) / pairs, 1.0, scores if named else {})


def test_accuracies_are_compared_on_the_same_pairs() -> None:
    """Of 64 pairs, 58 and 50 have intervals that overlap; that eight pairs are lost and none is won is no chance."""
    low, high = score(50).interval(ACCURACY), score(58).interval(ACCURACY)
    assert low is not None
    assert high is not None
    assert low[1] > high[0]
    assert is_worse(score(50), score(58), ACCURACY)
    assert not is_worse(score(58), score(50), ACCURACY)
    assert not is_worse(score(54), score(58), ACCURACY)  # four pairs: p = 0.125
    assert not is_worse(score(58), score(58), ACCURACY)


def test_the_best_of_many_scores_must_be_further_away() -> None:
    assert is_worse(score(50), score(58), ACCURACY, comparisons=6)  # p = 0.0078
    assert not is_worse(score(50), score(58), ACCURACY, comparisons=7)
    assert is_worse(score(50, margin=0.5), score(50, margin=0.6), MARGIN, comparisons=100)


def test_without_scores_of_pairs_the_intervals_must_be_apart() -> None:
    assert not is_worse(score(50, named=False), score(58, named=False), ACCURACY)
    assert is_worse(score(30, named=False), score(58, named=False), ACCURACY)
    assert not is_worse(score(30, named=False), score(58, named=False), MARGIN)  # a mean without its spread


def test_margins_are_compared_by_their_differences() -> None:
    assert is_worse(score(50, margin=0.5), score(50, margin=0.6), MARGIN)
    assert not is_worse(score(50, margin=0.6), score(50, margin=0.5), MARGIN)
    assert not is_worse(score(50), score(50), MARGIN)


def test_only_common_pairs_are_compared() -> None:
    one, other = score(10, 10), score(5, 20)
    comparison = compare(one, other)
    assert comparison is not None
    assert comparison.pairs == 10
    assert compare(one, score(5, named=False)) is None


def test_pairs_count_with_their_weights() -> None:
    one, other = (
        replace(each, pair_scores={name: PairScore(*each.pair_scores[name][:2], 9.0 if name == "pair 0" else 1.0) for name in each.pair_scores})
        for each in (score(1, 10), score(2, 10))
    )  # fmt: skip
    names = one.pair_scores.keys() - {"pair 9"}
    assert one.on_pairs(names).accuracy == pytest.approx(9 / 17)
    assert one.on_pairs(names).margin == pytest.approx((9 * 0.5 - 8 * 0.5) / 17)
    comparison = compare(one, other)
    assert comparison is not None
    assert (comparison.first_accuracy, comparison.second_accuracy) == pytest.approx((9 / 18, 10 / 18))
    assert comparison.margin_change == pytest.approx(1.001 / 18)
    interval, unweighted = one.interval(ACCURACY), score(1, 10).interval(ACCURACY)
    assert interval is not None
    assert unweighted is not None
    assert interval[1] - interval[0] > unweighted[1] - unweighted[0]


def test_equal_accuracies_are_ordered_by_margin() -> None:
    assert score(50, margin=0.6).sort_key(ACCURACY) > score(50, margin=0.5).sort_key(ACCURACY)
    assert score(51, margin=0.1).sort_key(ACCURACY) > score(50, margin=0.9).sort_key(ACCURACY)


def write_run(root: Path, **run: object) -> Path:
    root.mkdir(parents=True)
    lines = [
        {"kind": "event", "event": "attempt", "step": 0, "steps": 8},
        {"kind": "eval", "step": 0, "eval_rewards/accuracies": 0.5, "eval_pairs": 2, "eval_loss": 3.0},
        {"kind": "train", "step": 3, "loss": 1.0},
        {"kind": "eval", "step": 4, "eval_rewards/accuracies": 1.0, "eval_pairs": 2, "eval_loss": 1.0},
        {"kind": "train", "step": 5, "loss": 1.0},
        {"kind": "eval", "step": 8, "eval_rewards/accuracies": 0.5, "eval_pairs": 2, "eval_loss": 2.0},
    ]
    (root / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    scores = [{"step": 4, "pairs": ["a", "b"], "chosen": [-1.0, -1.0], "rejected": [-2.0, -1.5]}]
    (root / "eval_scores.jsonl").write_text("".join(json.dumps(each) + "\n" for each in scores))
    (root / "run.json").write_text(json.dumps({"status": "finished", **run}))
    (root / "plan.json").write_text("{}")
    return root


def test_progress_is_read_from_the_records_of_a_run(tmp_path: Path) -> None:
    progress = read_progress(write_run(tmp_path / "run"))
    assert (progress.step, progress.steps) == (8, 8)
    assert [(each.step, each.fraction) for each in progress.scores] == [(4, 0.5), (8, 1.0)]
    first, last = progress.scores
    assert (first.margin, first.pair_scores) == (0.75, {"a": (-1.0, -2.0, 1.0), "b": (-1.0, -1.5, 1.0)})
    assert (last.margin, last.pair_scores) == (None, {})
    assert progress.score_until(0.6) is first
    assert progress.score_until(0.4) is None


def test_the_final_score_is_that_of_the_saved_model(tmp_path: Path) -> None:
    assert final_score(write_run(tmp_path / "last")).step == 8  # type: ignore[union-attr]
    best = write_run(tmp_path / "best", best_checkpoint="/x/checkpoints/checkpoint-4")
    assert final_score(best).step == 8  # type: ignore[union-attr]  # it was not loaded
    loaded = {"training": {"load_best_model_at_end": {"value": True, "origin": "recipe", "reason": ""}}}
    (best / "plan.json").write_text(json.dumps(loaded))
    assert final_score(best).step == 4  # type: ignore[union-attr]


def test_a_reader_reads_again_what_has_changed(tmp_path: Path) -> None:
    reader = ProgressReader(tmp_path / "run")
    assert reader.read().scores == ()
    run = write_run(tmp_path / "run")
    assert len(reader.read().scores) == 2
    assert reader.read() is reader.progress
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "eval", "step": 9, "eval_rewards/accuracies": 1.0}) + "\n{broken")
    assert len(reader.read().scores) == 3


def test_a_logged_step_does_not_read_the_scores_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def count(record: Mapping[str, Any]) -> Scores:
        read.append(record["step"])
        return scores_of_evaluation(record)

    monkeypatch.setattr("orpo_cli.sweep.scores.scores_of_evaluation", count)
    run = write_run(tmp_path / "run")
    reader = ProgressReader(run)
    assert reader.read().step == 8
    write_line(run / "metrics.jsonl", {"kind": "train", "step": 9, "loss": 1.0})
    progress = reader.read()
    assert (progress.step, len(progress.scores[0].pair_scores), read) == (9, 2, [4])
    write_line(run / "eval_scores.jsonl", {"step": 8, "pairs": ["a"], "chosen": [-1.0], "rejected": [-2.0]})
    assert len(reader.read().scores[1].pair_scores) == 1


def write_line(path: Path, record: dict[str, object]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


@pytest.mark.parametrize(
    "files", [{}, {"metrics.jsonl": "\x00\n[]\n{"}, {"eval_scores.jsonl": '{"step": 4, "pairs": 3}\n'}]
)
def test_a_damaged_run_has_no_scores(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_progress(tmp_path).scores == ()
    assert final_score(tmp_path) is None
