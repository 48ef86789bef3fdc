"""The path that `orpo train` prints, RUN/adapter or RUN/model, names the run in every command that takes a run."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.recorded_runs import write_recorded_run
from support.tiny_eval_run import HELD_OUT, make_eval_run

from orpo_cli.rundir import RunDir

Orpo = Callable[..., Any]


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("full"), full=True)


def test_the_adapter_names_the_run_in_report_and_runs(lora_run: RunDir, orpo_here: Orpo) -> None:
    assert orpo_here("report", lora_run.adapter).stdout == f"{lora_run.report / 'index.html'}\n"
    [listed] = json.loads(orpo_here("runs", lora_run.adapter, "--json").stdout)["runs"]
    assert listed["path"] == str(lora_run.root)


def test_the_adapter_names_the_run_in_eval_generate_and_chat(
    lora_run: RunDir, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = json.loads(orpo_here("eval", lora_run.adapter, "--json").stdout)
    assert (list(evaluated["models"]), evaluated["pairs"]) == (["base", "tuned"], HELD_OUT)
    assert evaluated == json.loads(lora_run.evaluation.read_text())
    generated = orpo_here("generate", lora_run.adapter, "--compare", "-n", 1, "--max-new-tokens", 1, "--json")
    assert json.loads(generated.stdout)["models"] == ["base", "tuned"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert orpo_here("chat", lora_run.adapter, "--compare", "--max-new-tokens", 1).returncode == 0


def test_the_adapter_names_the_run_in_merge_export_and_push(tmp_path: Path, lora_run: RunDir, orpo_here: Orpo) -> None:
    run = RunDir(shutil.copytree(lora_run.root, tmp_path / "run"))
    assert orpo_here("merge", run.adapter).stdout == f"{run.merged}\n"
    assert orpo_here("export", run.adapter).stdout == f"{run.export / 'safetensors'}\n"
    for path in (run.adapter, run.merged):  # only a run is pushed, so that the merged model names it too
        pushed = orpo_here("push-to-hub", path, "me/tiny", "--dry-run")
        assert "adapter_model.safetensors" in pushed.stdout, pushed.stderr
    assert orpo_here("report", run.merged).stdout == f"{run.report / 'index.html'}\n"
    refused = orpo_here("eval", run.merged)
    assert (refused.returncode, "--data" in refused.stderr) == (2, True)  # a model for itself


def test_the_trained_model_of_all_weights_names_the_run(full_run: RunDir, orpo_here: Orpo) -> None:
    evaluated = json.loads(orpo_here("eval", full_run.model, "--json").stdout)
    assert list(evaluated["models"]) == ["base", "tuned"]
    assert orpo_here("export", full_run.model).stdout == f"{full_run.export / 'safetensors'}\n"


def test_relative_paths_and_links_name_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(write_recorded_run(tmp_path / "run"))
    run.adapter.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(run.root)
    found = RunDir.find(tmp_path / "link" / "adapter")
    assert found is not None
    assert found.root == tmp_path / "link"
    for folder, path, root in (
        (tmp_path, "run/adapter/", Path("run")),
        (run.root, "adapter", Path()),
        (run.adapter, ".", run.root),
    ):
        monkeypatch.chdir(folder)
        assert RunDir.open(path).root == root
    assert RunDir.find(run.checkpoints / "checkpoint-2") is None
    assert RunDir.find(run.merged) is None
