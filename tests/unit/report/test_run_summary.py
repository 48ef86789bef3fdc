"""Summary of a finished run, from its records: those of this version and of older ones, which have fewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines

from orpo_cli.report.run_history import read_history
from orpo_cli.report.run_summary import next_commands, summary_lines
from orpo_cli.statistics import accuracy_limit_note


def write_run(folder: Path, run: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"status": "finished", "steps": 32, "seconds": 64.2, **run}))
    write_json_lines(folder / "metrics.jsonl", lines)
    return folder


LOGPS = {"eval_logps/chosen": -1.0, "eval_logps/rejected": -1.25}


def evaluation(step: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "eval_loss": 1.0, "eval_rewards/accuracies": accuracy, **LOGPS, **more}


def test_a_run_with_all_records(tmp_path: Path) -> None:
    run = {"tokens_per_second": 1012.4, "peak_memory_gb": 4.123, "seconds": 15.0, "train_seconds": 64.2}  # resumed once
    counted = {"kind": "eval", "eval_pairs": 64}
    lines = [
        {"kind": "event", "event": "attempt", "step": 0},
        evaluation(0, 0.5, **counted),
        {"kind": "train", "step": 1, "loss": 2.34567, "pairs": 8, "tokens": 1900},
        evaluation(16, 0.8125, **counted),
        {"kind": "train", "step": 32, "loss": 1.23456, "pairs": 248, "tokens": 60_000},
        evaluation(32, 0.75, **counted),
        {"kind": "event", "event": "end", "step": 32, "epoch": 2.0, "pairs": 256, "tokens": 60_928},
    ]
    assert list(summary_lines(read_history(write_run(tmp_path / "run", run, lines)))) == [
        "trained 32 steps in 1 min 04 s",
        "trained on 256 pairs in 2 epochs, 60,928 tokens (prompts twice), 1,012 tokens/s, peak memory 4.12 GB",
        "loss       2.3457 at step 1 → 1.2346 at step 32, each of other pairs: compare the held-out ones",
        "held out   base, step 0: accuracy 0.500 [0.381, 0.619] of 64 pairs, margin 0.2500, loss 1.0000",
        "           best after it, step 16: accuracy 0.812 [0.700, 0.889] of 64 pairs, margin 0.2500, loss 1.0000",
        "           last, step 32: accuracy 0.750 [0.632, 0.840] of 64 pairs, margin 0.2500, loss 1.0000",
    ]


LENGTHS = {part: {"mean": mean} for part, mean in (("prompt", 41.0), ("chosen", 20.0), ("rejected", 60.0))}
TRAINED = [
    {"kind": "train", "step": step, "loss": loss, "nll_loss": nll, "log_odds_ratio": ratio}
    for step, loss, nll, ratio in ((1, 2.35, 2.0, -0.7), (32, 1.8, 1.6, -0.4))
]


@pytest.mark.parametrize(
    ("training", "line"),
    [
        (
            {"beta": 0.5, "loss_on_prompt": True, "nll_weight": 1.0},
            "NLL term 2.0000 → 1.6000 of prompt and chosen completion (67% of these tokens are prompt), "
            "beta × OR loss 0.3500 → 0.2000 (the preference: see accuracy and margin)",
        ),
        (
            {"beta": 0.5, "loss_on_prompt": False, "nll_weight": 0.5},
            "NLL term 1.0000 → 0.8000 of the chosen completion, beta × OR loss 0.3500 → 0.2000 (the preference: see accuracy and margin)",
        ),
        ({"beta": 1, "nll_weight": 0.0}, "beta × OR loss 0.7000 → 0.4000 (the preference: see accuracy and margin)"),
        (
            {"beta": 0, "loss_on_prompt": False},
            "NLL term 2.0000 → 1.6000 of the chosen completion",
        ),
    ],
)
def test_the_loss_is_divided_into_its_terms(training: dict[str, Any], line: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {}, TRAINED)
    plan = {key: {"value": value, "origin": "default", "reason": None} for key, value in training.items()}
    (run / "plan.json").write_text(json.dumps({"training": plan}))
    (run / "data_report.json").write_text(json.dumps({"lengths": {"train": LENGTHS}}))
    assert list(summary_lines(read_history(run)))[1:] == [
        "loss       2.3500 at step 1 → 1.8000 at step 32",
        f"           of which {line}",
    ]


def test_a_narrow_terminal_has_continuation_lines_below_the_text(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path / "run", {}, [evaluation(2, 1.0, eval_pairs=8)]))
    assert list(summary_lines(history, 40)) == [
        "trained 32 steps in 1 min 04 s",
        "held out   last, step 2: accuracy 1.000",
        "           [0.676, 1.000] of 8 pairs,",
        "           margin 0.2500, loss 1.0000",
    ]


def test_a_run_of_an_older_version_and_one_without_metrics(tmp_path: Path) -> None:
    older = write_run(tmp_path / "older", {}, [{"step": 2, "loss": 2.0}, evaluation(2, 1.0)])
    assert list(summary_lines(read_history(older))) == [
        "trained 32 steps in 1 min 04 s",
        "loss       2.0000 at step 2 → 2.0000 at step 2, each of other pairs: compare the held-out ones",
        "held out   last, step 2: accuracy 1.000, margin 0.2500, loss 1.0000",
    ]
    empty = write_run(tmp_path / "empty", {}, [])
    assert list(summary_lines(read_history(empty))) == ["trained 32 steps in 1 min 04 s"]


def test_the_next_commands_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = read_history(write_run(tmp_path / "a run", {}, []))
    monkeypatch.chdir(tmp_path)
    commands = {"generate RUN --compare": "compare answers", "eval RUN": "", "merge RUN": "merge it"}
    assert next_commands(history, commands, 80) == [
        "next:",
        "  orpo generate 'a run' --compare  compare answers",
        "  orpo merge 'a run'               merge it",
    ]
    assert next_commands(history, commands, 50) == [
        "next:",
        "  orpo generate 'a run' --compare",
        "  orpo merge 'a run'",
    ]
    monkeypatch.chdir(Path(__file__).parent)
    assert next_commands(history, {"chat RUN": "talk to it"})[1].startswith(f"  orpo chat '{tmp_path}/a run'")


@pytest.mark.parametrize(
    ("accuracy", "pairs", "limited"),
    [(1.0, 10, True), (9 / 10, 10, True), (8 / 10, 10, False), (0.99, 300, False), (0.0, 1, False), (1.0, 9, False)],
)
def test_a_base_that_is_right_on_nearly_all_pairs_limits_the_accuracy(
    accuracy: float, pairs: int, limited: bool
) -> None:
    assert (accuracy_limit_note(accuracy, pairs) is not None) is limited


def test_with_weights_the_effective_number_of_pairs_says_whether_the_accuracy_can_grow(tmp_path: Path) -> None:
    lines = [evaluation(0, 0.95, kind="eval", eval_pairs=64), evaluation(32, 0.95, kind="eval", eval_pairs=64)]
    run = write_run(tmp_path / "run", {}, lines)
    assert not any("right on nearly all pairs" in line for line in summary_lines(read_history(run)))
    (run / "data_report.json").write_text(json.dumps({"weights": {"eval": {"effective_pairs": 12.5}}}))
    assert any("right on nearly all pairs" in line for line in summary_lines(read_history(run)))
