"""`orpo plan` on one screen, and what `orpo train` prints of the plan."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal, run_in_terminal
from support.tiny import write_recipe

LABELS = ["model", "method", "data", "steps", "rate", "memory", "time", "run"]


def labels(text: str) -> list[str]:
    """First words of the lines that begin an entry."""
    return [line.split()[0] for line in text.splitlines() if line[:1].strip() and line[9:10] == " "]


def test_a_pipe_has_one_line_for_each_entry_and_decision(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path)
    done = orpo_here("plan", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert labels(done.stdout) == LABELS
    assert lines[0] == "recipe: ORPO of model, LoRA, on cpu"
    assert "steps     3 of 4 pairs, 0.5 epochs (12 of the 24 pairs); no evaluation, no checkpoint" in lines
    assert "data      train.jsonl; held out: heldout.jsonl (8 pairs)" in lines
    assert any(re.fullmatch(r"memory    [01]\.\d of .* GB: fits", line) for line in lines)  # 1.0 where torch has CUDA
    assert "  training.beta = 0.25: the paper's lambda" in done.stdout
    assert lines[-1] == "every value with its reason: orpo plan recipe.yaml --all"
    everything = orpo_here("plan", "recipe.yaml", "--all", "--set", "dataset.train.columns={chosen: chosen}").stdout
    assert f"dataset.train = {{path: {tmp_path}/train.jsonl, columns: {{chosen: chosen}}}}  # " in everything
    assert len(everything.splitlines()) > 60
    assert json.loads(orpo_here("plan", recipe, "--json").stdout)["estimate"]["verdict"] == "fits"


def test_the_plan_counts_pairs_tokens_and_steps_as_the_data_does(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    settings = ("dataset.eval={test_size: 0.1}", "training.max_steps=-1", "training.num_train_epochs=2")
    settings += ("training.per_device_train_batch_size=5", "training.gradient_accumulation_steps=1")
    for more in ((), ("training.dataloader_drop_last=true",)):
        options = [word for each in (*settings, *more) for word in ("--set", each)]
        data = json.loads(orpo_here("data", write_recipe(tmp_path), *options, "--json").stdout)
        plan = orpo_here("plan", tmp_path / "recipe.yaml", *options).stdout
        pairs, audit = data["report"]["train_pairs"], data["audit"]["train"]
        assert (
            f"{pairs} pairs, {audit['tokens']:,} tokens with each prompt once ({audit['tokens'] / pairs:.0f} a pair"
            in plan
        )
        assert f"held out: 10% of the pairs ({data['report']['eval_pairs']})" in plan
        rest = f"; the last step of an epoch has {pairs % 5}" * (not more)
        assert f"steps     {data['steps']['steps']} of 5 pairs, 2 epochs{rest}; " in plan
        assert "input tokens (all but the last of each completion)" in plan


def test_the_plan_says_how_rows_of_text_are_trained(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    note = "8 rows of text are trained as a user and an assistant message"
    assert f"          {note}" in orpo_here("plan", "recipe.yaml").stdout
    done = orpo_here("plan", "recipe.yaml", "--json", "--set", "dataset.train.format=text")
    (said,) = json.loads(done.stdout)["estimate"]["data_notes"]
    assert said.startswith("8 rows of text are trained as they are, without the chat template")
    monkeypatch.setattr("orpo_cli.workflows.estimate.MAX_DATA_BYTES", 100)
    sampled = orpo_here("plan", "recipe.yaml").stdout
    assert "lengths not measured" in sampled
    assert f"          among the first pairs: {note}" in sampled


def test_the_plan_counts_dropped_rows(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "Why?", "chosen": "Same.", "rejected": "Same."}) + "\n")
    assert "          1 of 25 rows are dropped; `orpo data` shows why" in orpo_here("plan", "recipe.yaml").stdout


def test_a_terminal_of_80_columns_has_one_screen(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    code, output = run_in_terminal([sys.executable, "-m", "orpo_cli", "plan", "recipe.yaml"], tmp_path, width=80)
    assert code == 0, output
    assert "measuring the lengths of the pairs" in output  # shows what it does
    terminal = Terminal(80)
    terminal.feed(output)
    lines = terminal.text().splitlines()
    assert 20 <= len(lines) <= 30
    assert labels(terminal.text()) == LABELS
    assert not any("loading the libraries" in line or "estimating memory" in line for line in lines)
    assert max(map(len, lines)) < 80
    assert any("░" in line and line.endswith("GB: fits") for line in lines)


def test_pairs_that_are_not_measured_are_counted_by_rows(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo_cli.workflows.estimate.MAX_DATA_BYTES", 100)
    recipe = write_recipe(tmp_path, training={"max_steps": -1, "num_train_epochs": 2})
    done = orpo_here("plan", recipe)
    assert "steps     about 12 of 4 pairs, 2 epochs; " in done.stdout
    assert "about 24 pairs, lengths not measured, max_length 192" in done.stdout
    assert "at most, for the longest pairs that max_length allows: " in done.stdout
    assert "time      at most, for pairs of max_length: " in done.stdout
    (tmp_path / "train.jsonl").rename(tmp_path / "train.json")
    unknown = orpo_here("plan", recipe, "--set", "dataset.train.path=train.json")
    assert "steps     2 epochs, 4 pairs a step; `orpo data` counts the pairs and the steps" in unknown.stdout


@pytest.mark.parametrize(
    "setting",
    [
        "dataset.train.max_samples=10",
        "dataset.train.weight=0.5",
        "dataset.train.weight=3",
        "dataset.eval={test_size: 0.5}",
        "dataset.eval={test_size: 16}",
    ],
)
def test_pairs_counted_by_rows_are_those_that_the_data_has(
    setting: str, tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo_cli.workflows.estimate.MAX_DATA_BYTES", 100)
    options = ("--set", "training.max_steps=-1", "--set", setting)
    recipe = write_recipe(tmp_path)
    data = json.loads(orpo_here("data", recipe, *options, "--json").stdout)
    plan = orpo_here("plan", recipe, *options).stdout
    assert f"about {data['report']['train_pairs']} pairs, lengths not measured" in plan
    assert f"steps     about {data['steps']['steps']} of 4 pairs" in plan


def test_pairs_of_a_slice_are_not_counted_by_rows(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo_cli.workflows.estimate.MAX_DATA_BYTES", 100)
    options = ("--set", "training.max_steps=-1", "--set", "dataset.train.split='train[:8]'")
    assert "`orpo data` counts the pairs and the steps" in orpo_here("plan", write_recipe(tmp_path), *options).stdout


def test_a_step_that_does_not_fit_has_settings_that_save_memory(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo_cli.machine.available_ram_bytes", lambda: 300_000_000)
    done = orpo_here("plan", write_recipe(tmp_path))
    assert "of 0.3 GB: does not fit" in done.stdout
    assert "with " in done.stdout.partition("does not fit")[2]


def test_several_processes_are_in_the_steps_and_the_memory(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("plan", write_recipe(tmp_path), "--set", "launch.num_processes=4")
    assert "3 of 16 pairs on 4 processes (ddp)" in done.stdout
    assert "GB on each of 4 devices: fits" in done.stdout


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({"max_steps": 3, "eval_strategy": "steps", "eval_steps": 2}, 3),
        ({"max_steps": 4, "eval_strategy": "steps", "eval_steps": 0.5, "eval_on_start": False}, 2),
        ({"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "eval_delay": 3}, 3),
        ({"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}, 3),
        ({"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "eval_delay": 2}, 2),
    ],
)
def test_the_time_includes_the_evaluations_of_the_training(
    tmp_path: Path, orpo_here: Callable[..., Any], settings: dict[str, Any], evaluations: int
) -> None:
    recipe = write_recipe(
        tmp_path, training={"gradient_accumulation_steps": 6, "load_best_model_at_end": False, **settings}
    )
    total = json.loads(orpo_here("plan", recipe, "--json").stdout)["estimate"]["training"]
    assert total["evaluations"] == evaluations
    assert 0 < total["evaluation_seconds"] < evaluations * total["seconds"] / total["steps"]
    assert f" of it for {evaluations} evaluations: " in orpo_here("plan", recipe).stdout
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("eval_loss" in json.loads(line) for line in lines) == evaluations


FEW = "optimizer steps are few for a fine-tune; "


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (
            ("gradient_accumulation_steps=2", "num_train_epochs=1"),
            f"3 {FEW}more epochs (training.num_train_epochs, now 1), fewer pairs a step (training.gradient_accumulation_steps, "
            "now 2) or more pairs give more",
        ),
        (
            ("dataloader_drop_last=true", "per_device_train_batch_size=100"),
            "the pairs do not fill a batch, and training.dataloader_drop_last drops it: `orpo train` will refuse them. Set it to "
            "false, or lower training.per_device_train_batch_size",
        ),
        (
            ("dataloader_drop_last=true", "per_device_train_batch_size=100", "max_steps=5"),
            "the pairs do not fill a batch, and training.dataloader_drop_last drops it: `orpo train` will refuse them. Set it to "
            "false, or lower training.per_device_train_batch_size",
        ),
        (
            ("gradient_accumulation_steps=8", "num_train_epochs=1"),
            "1 optimizer step is little for a fine-tune; more epochs (training.num_train_epochs, now 1), fewer pairs a step "
            "(training.gradient_accumulation_steps, now 8) or more pairs give more",
        ),
        (
            ("num_train_epochs=2", "warmup_steps=0.1"),
            f"12 {FEW}more epochs (training.num_train_epochs, now 2), fewer pairs a step (training.per_device_train_batch_size, "
            "now 4) or more pairs give more; step 1 has rate 0 and trains nothing",
        ),
        (
            ("num_train_epochs=1", "per_device_train_batch_size=1"),
            f"24 {FEW}more epochs (training.num_train_epochs, now 1) or more pairs give more",
        ),
        (("num_train_epochs=5",), None),
        (("max_steps=3",), None),  # the user has chosen so few
    ],
)
def test_the_plan_says_that_few_steps_are_few(
    settings: tuple[str, ...], note: str | None, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=-1, estimated=False)
    done = orpo_here("plan", recipe, *(word for each in settings for word in ("--set", f"training.{each}")))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    steps = next(at for at, line in enumerate(lines) if line.startswith("steps "))
    if note is None:
        assert FEW not in done.stdout
    else:
        assert lines[steps + 1] == f"          {note}"


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        (("warmup_steps=0.1",), "linear, warmup 0.1 (3 steps, the first at rate 0), adamw_torch"),
        (("warmup_steps=0.02",), "linear, warmup 0.02 (1 step, at rate 0), adamw_torch"),
        (("warmup_steps=5",), "linear, warmup 5 (5 steps, the first at rate 0), adamw_torch"),
        (("warmup_steps=0",), "linear, no warmup, adamw_torch"),
        (
            ("warmup_steps=5", "lr_scheduler_type=cosine_warmup_with_min_lr", "lr_scheduler_kwargs={min_lr: 1e-5}"),
            "cosine_warmup_with_min_lr, warmup 5, adamw_torch",
        ),
    ],
)
def test_the_plan_says_that_a_warmup_begins_at_rate_0(
    settings: tuple[str, ...], rate: str, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    settings = ("max_steps=30", "lr_scheduler_type=linear", *settings)
    recipe = write_recipe(tmp_path, estimated=False)
    done = orpo_here("plan", recipe, *(word for each in settings for word in ("--set", f"training.{each}")))
    assert f"rate      0.001, {rate}" in done.stdout.splitlines()


def test_the_plan_says_that_a_short_run_evaluates_and_saves_only_at_its_end(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, estimated=False)
    settings = ("max_steps=30", "eval_strategy=steps", "eval_steps=500", "save_strategy=steps", "save_steps=30")
    done = orpo_here("plan", recipe, *(word for each in settings for word in ("--set", f"training.{each}")))
    assert "; evaluation only after the last step (eval_steps: 500), checkpoint every 30 steps\n" in done.stdout


def test_a_resumed_run_plans_the_steps_that_are_left(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path, steps=2, training={"save_strategy": "steps", "save_steps": 2})
    first = orpo_here("train", recipe).stderr
    assert "steps     2 of 4 pairs, 0.33 epochs (8 of the 24 pairs); no evaluation" in first
    assert "steps left" not in first
    resumed = orpo_here("train", recipe, "--resume", "auto", "--set", "training.max_steps=7")
    assert resumed.returncode == 0, resumed.stderr
    assert "steps     7 of 4 pairs, 1.2 epochs; 2 done, 5 left; no evaluation" in resumed.stderr
    (line,) = (line for line in resumed.stderr.splitlines() if line.startswith("time "))
    total, each = re.fullmatch(
        r"time +about (\S+ m?s) for the 5 steps left: (\S+ m?s) a step; .*; longer beside other programs", line
    ).groups()  # type: ignore[union-attr]
    assert float(total.split()[0]) == pytest.approx(5 * float(each.split()[0]), rel=0.1)


def test_a_training_prints_the_short_plan_and_logs_every_decision(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path, training={"logging_steps": 1})
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    plan, _, rest = done.stderr.partition(f"every value with its reason: {tmp_path / 'run' / 'plan.json'}\n")
    assert labels(plan) == LABELS
    assert len(plan.splitlines()) <= 30
    assert "merge.dtype" not in plan
    log = (tmp_path / "run" / "logs" / "attempt-1.log").read_text()
    assert "merge.dtype = float32  (the dtype of the base weights)" in log
    words = [line.split(" ", 1)[1] for line in log.splitlines()]
    statuses = [
        "preparing pairs",
        "loading model",
        "preparing the trainer",
        "comparing both paths",
        "saving the result",
    ]
    assert [word for word in words if word in statuses] == statuses
    assert "step 3/3  loss " in rest
    end = rest.partition("trained 3 steps in ")[2]
    assert "loss       " in end
    assert [line.split("  ")[1] for line in end.splitlines() if line.startswith("  orpo ")] == [
        "orpo generate run --compare",
        "orpo eval run",
        "orpo report run",
        "orpo merge run",
    ]
    assert orpo_here("generate", "run", "--compare", "--max-new-tokens", "2").returncode == 0


@pytest.mark.parametrize(
    ("settings", "method", "terms"),
    [
        (
            (),
            ", NLL of prompt and chosen completion",
            r"NLL term (\S+) → (\S+) of prompt and chosen completion \(\d\d% of .*\)",
        ),
        (("engine.fast_path=off",), ", NLL of prompt", r"NLL term (\S+) → (\S+) of prompt and chosen completion .*"),
        (
            ("training.loss_on_prompt=false", "training.nll_weight=0.5"),
            ", 0.5 × NLL of the chosen completion",
            r"NLL term (\S+) → (\S+) of the chosen completion",
        ),
    ],
)
def test_plan_and_summary_say_what_the_loss_is_made_of(
    settings: tuple[str, ...], method: str, terms: str, tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, steps=2, estimated=False, training={"gradient_accumulation_steps": 2})
    done = orpo_here("train", recipe, *(word for each in settings for word in ("--set", each)))
    assert done.returncode == 0, done.stderr
    assert f"method    ORPO with beta 0.25{method}" in done.stderr
    loss = re.search(r"^loss +(\S+) at step 1 → (\S+) at step 2\n +of which (.*)$", done.stderr, re.MULTILINE)
    assert loss is not None
    found = re.fullmatch(terms + r", beta × OR loss (\S+) → (\S+) \(the preference: see accuracy and margin\)", loss[3])
    assert found is not None, loss[3]
    nll_first, nll_last, ratio_first, ratio_last = map(float, found.groups())
    assert nll_first + ratio_first == pytest.approx(float(loss[1]), abs=2e-4)
    assert nll_last + ratio_last == pytest.approx(float(loss[2]), abs=2e-4)
