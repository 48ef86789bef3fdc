"""`--resume auto` on a finished run: nothing to do, a longer run, or an error that lists what has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.file_damage import halve
from support.forked_orpo import run_forked
from support.killed_run import make_run_of_version_0_2_0
from support.metric_lines import metric_lines
from support.tiny import write_recipe

from orpo_cli.planning.plan import Why
from orpo_cli.rundir import RunDir

SAVING = {"save_strategy": "steps", "save_steps": 2}
RESUME = ("--resume", "auto")


def finished_run(
    folder: Path, orpo_here: Callable[..., Any], dataset: dict[str, Any] | None = None, **training: Any
) -> tuple[Path, RunDir]:
    """A run of 4 steps, of 6 an epoch, and its recipe."""
    recipe = write_recipe(folder, steps=4, training={**SAVING, **training}, dataset=dataset or {})
    done = orpo_here("train", recipe)
    assert done.returncode == 0, done.stderr
    return recipe, RunDir(folder / "run")


def snapshot(rundir: RunDir) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in rundir.root.rglob("*") if path.is_file()}


def overrides(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def steps(rundir: RunDir) -> list[int]:
    return [line["step"] for line in metric_lines(rundir.root)]


def test_changed_settings_are_refused_and_listed(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here)
    before = snapshot(rundir)
    for settings, differences in {
        ("training.beta=0.9",): ["training.beta: 0.25 → 0.9"],
        ("training.beta=0.9", "training.max_steps=9"): ["training.beta: 0.25 → 0.9"],
        ("training.max_steps=3",): ["training.max_steps: 4 → 3", "4 steps"],
        ("training.max_steps=-1", "training.num_train_epochs=0.5"): ["training.num_train_epochs:", "4 steps"],
        ("training.save_steps=3",): ["training.save_steps: 2.0 → 3.0"],
        ("lora.r=8", "merge.dtype=bfloat16"): ["lora.r: 4 → 8"],
        ("dataset.train.max_samples=5",): ["\n  dataset.train[0].max_samples: None → 5"],
    }.items():
        refused = orpo_here("train", recipe, *RESUME, *overrides(*settings), "--json")
        assert refused.returncode == 2, settings
        document = json.loads(refused.stdout)
        assert document["status"] == "usage"
        for difference in differences:
            assert difference in document["message"]
    assert snapshot(rundir) == before


def test_the_same_settings_have_nothing_to_resume(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """Also where this machine decides other values than the one that trained."""
    recipe, rundir = finished_run(tmp_path, orpo_here)
    plan = rundir.read_plan()
    assert plan.why["engine.max_tokens_per_microbatch"].origin == "decided"
    why = {**plan.why, "training.bf16": Why(origin="decided", reason="cuda")}
    other = plan.model_copy(
        update={
            "engine": plan.engine.model_copy(update={"max_tokens_per_microbatch": 4096}),
            "training": {**plan.training, "bf16": True},
            "why": why,
        }
    )
    rundir.plan.write_text(other.to_json())
    before = snapshot(rundir)
    done = orpo_here("train", recipe, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "nothing to resume" in done.stderr
    assert snapshot(rundir) == before


def test_a_finished_run_whose_data_have_changed_is_refused(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here)
    file = tmp_path / "train.jsonl"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*rows[:-1], "\n", rows[-1].replace('"prompt"', ' "prompt"')]))  # the same pairs
    same = orpo_here("train", recipe, *RESUME)
    assert (same.returncode, "nothing to resume" in same.stderr) == (0, True), same.stderr
    file.write_text("".join([*rows[:-1], rows[-1].replace("It is", "I am sure that it is")]))
    before = snapshot(rundir)
    refused = orpo_here("train", recipe, *RESUME, "--quiet")
    assert refused.returncode == 2
    assert "train pairs; the first difference is pair" in refused.stderr
    assert snapshot(rundir) == before
    accepted = orpo_here("train", recipe, *RESUME, "--allow-changed", "data")
    assert accepted.returncode == 0
    assert "accepted: data: " in accepted.stderr


def test_a_finished_run_does_not_need_its_data(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """A recipe's relative path that names no file is not another setting; a path of another file is."""
    write_recipe(tmp_path)  # the data
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "train.jsonl").rename(data / "train.jsonl")
    written = {"train": {"path": "recipes/../data/train.jsonl"}}
    recipe, rundir = finished_run(tmp_path, orpo_here, dataset=written)
    data.rename(tmp_path / "gone")
    before = snapshot(rundir)
    done = orpo_here("train", recipe, *RESUME)
    assert (done.returncode, "nothing to resume" in done.stderr) == (0, True), done.stderr
    for settings, found in {
        ("dataset.train.path=elsewhere/train.jsonl",): "→ 'elsewhere/train.jsonl'",
        ("training.beta=0.9",): "changed:\n  training.beta: 0.25 → 0.9\n",
    }.items():
        refused = orpo_here("train", recipe, *RESUME, *overrides(*settings))
        assert (refused.returncode, found in refused.stderr) == (2, True), refused.stderr
    longer = orpo_here("train", recipe, *RESUME, *overrides("training.max_steps=6"))
    assert (longer.returncode, f"{data}/train.jsonl: no such file" in longer.stderr) == (4, True), longer.stderr
    assert snapshot(rundir) == before


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        (["training.max_steps=6"], 6),
        (["training.max_steps=6", "training.logging_steps=1"], 6),
        (["training.max_steps=-1", "training.num_train_epochs=1"], 6),
    ],
)
def test_a_longer_run_is_trained_on(
    tmp_path: Path, orpo_here: Callable[..., Any], settings: list[str], length: int
) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here)
    before = (rundir.adapter / "adapter_model.safetensors").read_bytes()
    done = orpo_here("train", recipe, *RESUME, *overrides(*settings))
    assert done.returncode == 0, done.stderr
    assert "checkpoint-4" in done.stderr
    assert steps(rundir) == list(range(1, length + 1))
    assert (rundir.read_run()["status"], rundir.read_run()["steps"]) == ("finished", length)
    assert (rundir.adapter / "adapter_model.safetensors").read_bytes() != before
    again = orpo_here("train", recipe, *RESUME, *overrides(*settings))
    assert "nothing to resume" in again.stderr


def test_more_epochs_are_trained_on(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here, max_steps=-1, num_train_epochs=1)
    done = orpo_here("train", recipe, *RESUME, *overrides("training.num_train_epochs=2"))
    assert done.returncode == 0, done.stderr
    assert steps(rundir) == list(range(1, 13))


def test_a_run_without_checkpoints_cannot_be_trained_longer(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here, save_strategy="no")
    before = snapshot(rundir)
    refused = orpo_here("train", recipe, *RESUME, *overrides("training.max_steps=6"))
    assert refused.returncode == 2
    assert "no checkpoint" in refused.stderr
    assert "training.max_steps: 4 → 6" in refused.stderr
    assert snapshot(rundir) == before


def test_a_resumed_run_names_what_it_goes_on_with(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """Settings that may change, a checkpoint without a manifest, and a data file that is gone: nothing is silent."""
    recipe = write_recipe(tmp_path, steps=2, training={"save_strategy": "steps", "save_steps": 2})
    longer = ("train", recipe, "--resume", "auto", "--set", "training.max_steps=4")
    assert orpo_here("train", recipe).returncode == 0
    data = tmp_path / "train.jsonl"
    rows = data.read_bytes()
    data.unlink()
    missing = orpo_here(*longer)
    assert missing.returncode == 4
    assert f"error: {data}: no such file. The run was started with it.\n" in missing.stderr
    data.write_bytes(rows)
    make_run_of_version_0_2_0(RunDir(tmp_path / "run"))
    done = orpo_here(*longer)
    assert done.returncode == 0, done.stderr
    assert "with other settings than before:\n  training.max_steps: 2 → 4\n" in done.stderr
    assert "checkpoint-2 has no manifest.json" in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Recipe and run directory of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, steps=4, training=SAVING)
    done = run_forked(folder, os.environ, "train", recipe)
    assert done.code == 0, done.err
    return recipe, folder / "run"


@pytest.mark.parametrize(
    ("damage", "named", "resumed_from"),
    [
        (lambda run: shutil.rmtree(run / "adapter"), "adapter/adapter_config.json is missing", 4),
        (lambda run: halve(run / "adapter" / "adapter_model.safetensors"), "adapter/adapter_model.safetensors has", 2),
        (lambda run: (run / "adapter" / "tokenizer.json").unlink(), "adapter/tokenizer.json is missing", 0),
    ],
    ids=["folder", "weights", "tokenizer"],
)  # fmt: skip
def test_a_lost_result_is_restored(
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    finished: tuple[Path, Path],
    damage: Callable[[Path], None],
    named: str,
    resumed_from: int,
) -> None:
    """From the last checkpoint, also where it is before the end, or from step 0: to the same files."""
    recipe, source = finished
    run = Path(shutil.copytree(source, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    for step in (2, 4):
        if step > resumed_from:
            shutil.rmtree(run / "checkpoints" / f"checkpoint-{step}")
    damage(run)
    for command in (("merge", run), ("export", run), ("eval", run), ("generate", run, "--prompt", "x")):
        refused = orpo_here(*command)
        assert refused.returncode == 2, refused.stderr
        assert f"the result of {run} is damaged: {run}/{named}" in refused.stderr
        assert "`orpo train RECIPE --resume auto`" in refused.stderr
    train = ("train", recipe, *RESUME, *overrides(f"output_dir={run}"))
    done = orpo_here(*train)
    assert done.returncode == 0, done.stderr
    assert f"{run}/{named}" in done.stderr
    assert ("starting from step 0" if not resumed_from else f"checkpoint-{resumed_from}\n") in done.stderr
    after = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    assert after == before
    assert steps(RunDir(run)) == [1, 2, 3, 4]
    assert "nothing to resume" in orpo_here(*train).stderr


def test_a_section_with_defaults_that_is_removed_is_a_changed_setting(
    tmp_path: Path, orpo_here: Callable[..., Any], finished: tuple[Path, Path]
) -> None:
    """`lora: {}` sets no value of the section."""
    recipe, source = finished
    rundir = RunDir(Path(shutil.copytree(source, tmp_path / "run")))
    plan = rundir.read_plan()
    default = Why(origin="default", reason="default")
    why = {path: default if path.startswith("lora.") else each for path, each in plan.why.items()}
    rundir.plan.write_text(plan.model_copy(update={"why": why}).to_json())
    refused = orpo_here("train", recipe, *RESUME, *overrides(f"output_dir={rundir.root}", "lora=null"))
    assert refused.returncode == 2, refused.stderr
    assert "has finished, and its settings have changed:\n  lora: removed\n" in refused.stderr


def test_a_result_that_is_not_restored_keeps_its_name(
    tmp_path: Path, orpo_here: Callable[..., Any], finished: tuple[Path, Path]
) -> None:
    """There is no checkpoint, and the merged model could not be repeated; or the data has changed."""
    recipe, source = finished
    run = Path(shutil.copytree(source, tmp_path / "run"))
    halve(run / "adapter" / "tokenizer.json")
    (run / "model").mkdir()
    (run / "model" / "notes").write_text("of the user")
    data = Path(shutil.copy(recipe.parent / "train.jsonl", tmp_path))
    data.write_text("".join(data.read_text().splitlines(keepends=True)[1:]))
    kept = ("adapter", "model", "run.json", "plan.json", "checkpoints")
    before = [snapshot(RunDir(run / name)) or (run / name).read_bytes() for name in kept]
    train = ("train", recipe, *RESUME, *overrides(f"output_dir={run}"))
    done = orpo_here(*train, "--set", f"dataset.train.path={data}")
    assert (done.returncode, "was started with other inputs" in done.stderr) == (2, True), done.stderr
    assert before == [snapshot(RunDir(run / name)) or (run / name).read_bytes() for name in kept]

    (run / "merged").mkdir()
    shutil.rmtree(run / "checkpoints")
    done = orpo_here(*train)
    assert (done.returncode, "has a result and no checkpoint" in done.stderr) == (2, True), done.stderr
    assert sorted(path.name for path in run.iterdir() if "damaged" in path.name) == []


def test_a_lost_result_of_version_0_2_0_is_noticed_by_its_weights(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    """run.json does not have the names and sizes of its files."""
    rundir = RunDir(Path(shutil.copytree(finished[1], tmp_path / "run")))
    make_run_of_version_0_2_0(rundir)
    assert rundir.result() == rundir.adapter
    weights = rundir.adapter / "adapter_model.safetensors"
    halve(weights)
    assert f"{rundir.adapter}: {weights.name} cannot be read" in str(rundir.result_damage())
    weights.unlink()
    assert rundir.result_damage() == f"{rundir.adapter}: it has no weights"
    shutil.rmtree(rundir.adapter)
    assert rundir.result_damage() == "it has no folder adapter or model"


def test_a_base_that_is_gone_is_named(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """Its name in the recipe could also be one on the hub. The remedy of the message works for all commands."""
    recipe, rundir = finished_run(tmp_path, orpo_here)
    run, model = rundir.root, (tmp_path / "model").rename(tmp_path / "elsewhere")
    train = ("train", recipe, *RESUME)
    commands = [("merge", run), ("export", run), ("eval", run), ("generate", run, "--prompt", "x")]
    for command in (train, (*train, *overrides("training.max_steps=6")), *commands):
        refused = orpo_here(*command)
        assert refused.returncode == 2, refused.stderr
        assert f"{tmp_path}/model is gone. It is the base model of {run}, as {rundir.plan} says." in refused.stderr
        assert "`orpo train RECIPE --resume auto --set model.model_name_or_path=PLACE`" in refused.stderr
        assert "hub" not in refused.stderr
    recorded = orpo_here(*train, *overrides(f"model.model_name_or_path={model}"))
    assert recorded.returncode == 0, recorded.stderr
    assert orpo_here("generate", run, "--prompt", "x").returncode == 0


def test_what_measured_an_earlier_result_is_set_aside_and_an_older_merge_is_named(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe, rundir = finished_run(tmp_path, orpo_here)
    for command in (
        ("eval",),
        ("generate", "--compare", "-n", "1", "--max-new-tokens", "2"),
        ("merge", "--held-out", "0"),
    ):
        assert orpo_here(command[0], rundir.root, *command[1:]).returncode == 0
    measured = rundir.evaluation.read_bytes()
    assert orpo_here("train", recipe, *RESUME).returncode == 0  # nothing to do
    assert rundir.evaluation.read_bytes() == measured
    assert (
        "earlier adapter" not in orpo_here("generate", rundir.merged, "--prompt", "a", "--max-new-tokens", "1").stderr
    )
    assert orpo_here("train", recipe, *RESUME, "--set", "training.max_steps=6").returncode == 0
    assert not rundir.evaluation.exists()
    assert (rundir.abandoned / "evaluation.step-4.json").read_bytes() == measured
    assert (rundir.abandoned / "samples.step-4.json").is_file()
    assert "held-out pairs, tuned" not in rundir.card.read_text()
    asked = orpo_here("generate", rundir.merged, "--prompt", "a", "--max-new-tokens", "1")
    assert (
        f"merged from an earlier adapter of the run, which has been trained since. Merge again: orpo merge {rundir.root}"
        in asked.stderr
    )
    again = orpo_here("merge", rundir.root)
    assert (again.returncode, "a merge of another adapter" in again.stderr) == (2, True)
