"""`orpo plan --show-origin`: file, line or variable of each value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BASE = """\
model: {model_name_or_path: some/model}
dataset:
  train: {path: x.jsonl}
training:
  optim: paged_adamw_8bit
  seed: 4
  use_cpu: true
"""
CHILD = """\
extends: base.yaml
dataset:
  eval:
    - path: y.jsonl
    - path: z.jsonl
      split: ${SPLIT}
training:
  seed: ${SEED:-1}
  max_steps: ${STEPS}
lora: {r: 4}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLIT", "test")
    monkeypatch.setenv("STEPS", "7")
    monkeypatch.delenv("SEED", raising=False)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(CHILD)
    return "child.yaml"


def test_every_value_has_its_origin(recipe: str, orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("plan", recipe, "--show-origin", "--set", "lora.r=2", "--set", "dataset.eval[0].split=dev")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    assert lines["model.model_name_or_path"] == "some/model  # base.yaml:1"
    assert lines["dataset.train[0].path"] == "x.jsonl  # base.yaml:3"
    assert lines["dataset.train[0].split"] == "train  # default"
    assert lines["dataset.eval[0].path"] == "y.jsonl  # child.yaml:4"
    assert lines["dataset.eval[0].split"] == "dev  # --set"
    assert lines["dataset.eval[1].split"] == "test  # child.yaml:6, environment variable SPLIT"
    assert lines["training.max_steps"] == "7  # child.yaml:9, environment variable STEPS"
    assert lines["training.seed"] == "1  # child.yaml:8"
    assert lines["lora.r"] == "2  # --set"
    assert lines["lora.lora_alpha"] == "32  # default"
    assert lines["training.optim"] == "adamw_torch  # decided: paged_adamw_8bit is made for CUDA GPUs (base.yaml:5)"
    assert lines["training.fp16"] == "false  # decided: cpu"


def test_json_has_file_line_column_and_variables(recipe: str, orpo_here: Callable[..., Any]) -> None:
    document = json.loads(orpo_here("plan", recipe, "--show-origin", "--json").stdout)
    assert document["training"]["max_steps"] == {
        "value": 7, "origin": "environment", "reason": "as an environment variable says", "file": "child.yaml", "line": 9,
        "column": 3, "variables": ["STEPS"],
    }  # fmt: skip
    nowhere = {"file": None, "line": None, "column": None, "variables": []}
    assert document["lora"]["bias"] == {"value": "none", "origin": "default", "reason": "default", **nowhere}
    assert document["training"]["beta"]["origin"] == "decided"
    assert [part["path"]["line"] for part in document["dataset"]["eval"]["parts"]] == [4, 5]
    assert document["dataset"]["eval"]["value"][1]["split"] == "test"


def test_without_the_option_the_plan_has_reasons_and_no_lines(recipe: str, orpo_here: Callable[..., Any]) -> None:
    done = orpo_here("plan", recipe, "--all")
    assert "base.yaml" not in done.stdout
    assert "training.max_steps = 7  # as an environment variable says" in done.stdout
    document = json.loads(orpo_here("plan", recipe, "--json").stdout)
    assert set(document["training"]["max_steps"]) == {"value", "origin", "reason"}
