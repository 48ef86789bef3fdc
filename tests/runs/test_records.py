"""Records of a run: evaluations that equal `orpo eval`, events, totals over attempts, and a recipe that trains the same again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.metric_lines import all_lines, events, metric_lines
from support.tiny import write_recipe

from orpo_cli.report.live_display import TrainingDisplay

EVALUATED = {"eval_strategy": "steps", "eval_steps": 2}
LOSSES = ("step", "loss", "eval_loss", "grad_norm", "eval_rewards/margins")
HEAD = {"kind", "time", "elapsed", "step", "epoch", "pairs", "tokens"}


def losses(run: Path) -> list[dict[str, float]]:
    return [{name: line[name] for name in LOSSES if name in line} for line in metric_lines(run)]


def evaluations(run: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in metric_lines(run) if line["kind"] == "eval"}


def record_statuses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record what the display of a training shows besides the steps."""
    found: list[tuple[str, str]] = []
    status = TrainingDisplay.status

    def record(self: TrainingDisplay, text: str, detail: str = "") -> None:
        found.append((text, detail))
        status(self, text, detail)

    monkeypatch.setattr(TrainingDisplay, "status", record)
    return found


@pytest.mark.parametrize(
    ("training", "sections"),
    [
        ({}, {}),
        ({"per_device_eval_batch_size": 3, "loss_on_prompt": False}, {"engine": {"fast_path": "off"}}),
        ({"disable_dropout": False}, {"lora": None}),
    ],
    ids=["lora", "trl-path", "all-weights"],
)
def test_an_evaluation_in_training_equals_orpo_eval_to_the_last_digit(
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
    sections: dict[str, Any],
) -> None:
    shown = record_statuses(monkeypatch)
    lora = "lora" not in sections
    sections = {name: values for name, values in sections.items() if values}
    recipe = write_recipe(tmp_path, steps=3, lora=lora, estimated=False, training={**EVALUATED, **training}, **sections)
    assert orpo_here("train", recipe).returncode == 0
    run = tmp_path / "run"
    found = evaluations(run)
    assert list(found) == [0, 2, 3]
    batches = 3 if "per_device_eval_batch_size" in training else 1
    for status in ("evaluating the base", "evaluating"):
        assert shown.count((status, f"batch {batches} of {batches}")) == (1 if status.endswith("base") else 2)
    assert orpo_here("eval", run).returncode == 0
    document = json.loads((run / "evaluation.json").read_text())
    for step, variant in ((0, "base"), (3, "tuned")):
        metrics = document["models"][variant]
        expected = {f"eval_{name}": metrics[name] for name in metrics.keys() - {"intervals", "margin"}}
        assert {name: found[step][name] for name in expected} == expected
        assert found[step]["eval_pairs"] == document["pairs"] == 8
        loss = expected["eval_nll_loss"] - document["beta"] * expected["eval_log_odds_ratio"]
        assert found[step]["eval_loss"] == loss
    record = json.loads((run / "run.json").read_text())
    assert record["fast_path"] == ("engine" not in sections)
    lines = [json.loads(line) for line in (run / "eval_scores.jsonl").read_text().splitlines()]
    assert [(line["step"], line["dataset"]) for line in lines] == [(0, "eval"), (2, "eval"), (3, "eval")]
    for line, variant in ((lines[0], "base"), (lines[-1], "tuned")):
        scores = {each["row"]: each["models"][variant] for each in document["scores"]}
        assert line["pairs"] == list(scores)
        assert line["chosen"] == [each["logps/chosen"] for each in scores.values()]
        assert line["rejected"] == [each["logps/rejected"] for each in scores.values()]


@pytest.mark.parametrize(
    ("training", "lora", "reused"),
    [({}, {}, ["base"]), ({}, {"init_lora_weights": "pissa"}, []), ({"per_device_eval_batch_size": 3}, None, ["base"])],
    ids=["lora", "pissa", "all-weights"],
)
def test_orpo_eval_uses_the_scores_of_the_base_before_the_first_step(
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    training: dict[str, Any],
    lora: dict[str, Any] | None,
    reused: list[str],
) -> None:
    """Where the untrained adapter adds nothing to it; with pissa it is another function until the first step."""
    monkeypatch.setenv("ORPO_SCORE_CACHE", "1")
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(tmp_path, steps=2, lora=lora is not None, estimated=False, training={**EVALUATED, **training})
    for name, value in (lora or {}).items():
        recipe.write_text(recipe.read_text().replace("lora_alpha: 8", f"lora_alpha: 8\n  {name}: {value}"))
    assert orpo_here("train", recipe).returncode == 0
    document = json.loads(orpo_here("eval", tmp_path / "run", "--json").stdout)
    assert list(document["reused"]) == reused
    again = json.loads(orpo_here("eval", tmp_path / "run", "--json", "--recompute").stdout)
    assert again["reused"] == {}
    assert again["models"]["tuned"] == document["models"]["tuned"]
    for name in ("logps/chosen", "logps/rejected", "nll_loss"):
        assert again["models"]["base"][name] == pytest.approx(document["models"]["base"][name], abs=1e-5)
    if reused:
        assert document["reused"]["base"]["by"] == f"orpo train, before the first step of {tmp_path / 'run'}"


def test_the_evaluation_of_the_base_leaves_the_training_bit_identical(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    """With dropout, whose masks depend on the random state, and with the choice of the best checkpoint."""
    training = {**EVALUATED, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    recipe = write_recipe(tmp_path, steps=4, estimated=False, training=training)
    recipe.write_text(recipe.read_text().replace("lora_alpha: 8", "lora_alpha: 8\n  lora_dropout: 0.2"))
    results = []
    for name, on_start in (("with", "true"), ("without", "false")):
        options = ("--set", f"output_dir={tmp_path / name}", "--set", f"training.eval_on_start={on_start}")
        assert orpo_here("train", recipe, *options).returncode == 0
        state = json.loads((tmp_path / name / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
        weights = (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        results.append((weights, state["best_global_step"], state["best_metric"]))
    assert results[0] == results[1]
    assert losses(tmp_path / "with")[1:] == losses(tmp_path / "without")


def test_a_resumed_run_continues_its_records(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    training = {**EVALUATED, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    recipe = write_recipe(tmp_path, steps=2, estimated=False, training=training)
    run = tmp_path / "run"
    assert orpo_here("train", recipe).returncode == 0
    first = json.loads((run / "run.json").read_text())
    assert orpo_here("train", recipe, "--resume", "auto", "--set", "training.max_steps=4").returncode == 0
    lines = all_lines(run)
    assert all(line.keys() >= HEAD - {"epoch"} for line in lines)
    for name in ("elapsed", "pairs", "tokens"):
        values = [line[name] for line in lines]
        assert values == sorted(values), name
    assert list(evaluations(run)) == [0, 2, 4]
    attempts = events(run, "attempt")
    assert [(each["attempt"], each["step"], each["steps"]) for each in attempts] == [(1, 0, 2), (2, 2, 4)]
    assert attempts[0]["metrics_version"] == 1
    assert lines[0] == attempts[0]
    assert [each["path"] for each in events(run, "checkpoint")] == [f"checkpoints/checkpoint-{step}" for step in (2, 4)]
    assert [(each["step"], each["reason"]) for each in events(run, "end")] == [(2, "finished"), (4, "finished")]
    assert (lines[-1]["pairs"], lines[-1]["event"]) == (16, "end")
    assert [json.loads(line)["step"] for line in (run / "eval_scores.jsonl").read_text().splitlines()] == [0, 2, 4]
    record = json.loads((run / "run.json").read_text())
    assert record["train_seconds"] > first["train_seconds"] > 0
    assert record["changed"] == {"training.max_steps": 4}
    assert first["changed"] == {}
    assert "  max_steps: 4 # --set\n" in (run / "recipe.yaml").read_text()

    (checkpoint,) = (each for each in (run / "checkpoints").iterdir() if each.name == "checkpoint-2")
    done = orpo_here("train", recipe, "--resume", checkpoint, "--set", "training.max_steps=5")
    assert done.returncode == 0, done.stderr
    assert list(evaluations(run)) == [0, 2, 4, 5]
    assert (run / "abandoned" / "attempt-2" / "eval_scores.jsonl").is_file()


def test_the_recipe_of_a_run_trains_the_same_from_another_directory(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    write_recipe(base, steps=3, estimated=False, training=EVALUATED)
    child, run, elsewhere = tmp_path / "child.yaml", tmp_path / "child-run", tmp_path / "elsewhere"
    child.write_text(
        f"extends: base/recipe.yaml\noutput_dir: {run.name}\ntags: [first]\nmodel: {{token: '${{RUN_KEY}}'}}\n"
    )
    monkeypatch.setenv("RUN_KEY", "swordfish")
    monkeypatch.chdir(tmp_path)
    options = ("--set", "training.learning_rate=2e-3", "--set", "training.seed=7")
    done = orpo_here("train", "child.yaml", *options)
    assert done.returncode == 0, done.stderr
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    done = orpo_here("train", run / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    again = elsewhere / "runs" / "child"
    assert losses(again) == losses(run)
    assert (run / "recipe.original.yaml").read_text().endswith(child.read_text())
    assert not [each for each in run.rglob("*") if each.is_file() and b"swordfish" in each.read_bytes()]
    record = json.loads((run / "run.json").read_text())
    assert record["command"] == ["orpo", "train", "child.yaml", *options]
    assert record["changed"] == {"training.learning_rate": 0.002, "training.seed": 7}
    assert record["tags"] == ["first"]
    assert record["machine"]["devices"]
    assert record["machine"]["processor"]
    assert record["machine"]["memory_gb"] > 0
    assert record["peak_memory_gb"] > 0
    assert record["tokens_per_second"] > record["pairs_per_second"] > 0
    assert record["seconds"] >= record["train_seconds"] > 0


def test_the_record_and_the_card_have_the_evaluation_of_the_saved_weights(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    """The checkpoint with the lowest log-probability of chosen completions is an early one."""
    training = {**EVALUATED, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    training |= {"metric_for_best_model": "logps/chosen", "greater_is_better": False}
    recipe = write_recipe(tmp_path, steps=6, estimated=False, training=training)
    assert orpo_here("train", recipe).returncode == 0
    run = tmp_path / "run"
    record, found = json.loads((run / "run.json").read_text()), evaluations(run)
    best = min((each for each in found.values() if each["step"]), key=lambda each: each["eval_logps/chosen"])
    assert best["step"] < 6
    assert record["final_evaluation"]["step"] == best["step"]
    assert f"8 held-out pairs, step {best['step']} |" in (run / "README.md").read_text()
    assert orpo_here("eval", run).returncode == 0
    tuned = json.loads((run / "evaluation.json").read_text())["models"]["tuned"]
    assert tuned["logps/chosen"] == best["eval_logps/chosen"]
    card = (run / "README.md").read_text()
    assert "name: heldout.jsonl, 8 held-out pairs" in card
    assert "`heldout.jsonl`" in card


def test_warnings_of_the_recipe_are_in_the_record(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path, steps=1, estimated=False, training={"learning_rate": 0.1})
    assert orpo_here("train", recipe).returncode == 0
    warnings = json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
    assert [each["code"] for each in warnings if each["message"].startswith("training.learning_rate: ")] != []


def test_the_last_step_of_an_epoch_says_how_many_pairs_it_has(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    training = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 23, "logging_steps": 1}
    recipe = write_recipe(tmp_path, estimated=False, training=training)  # 24 pairs
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loss +\S+ at step 1 → \S+ at step 2 \(of 1 pair\)", done.stderr)
    assert "| step 2 (1 pair) |" in (tmp_path / "run" / "README.md").read_text()
