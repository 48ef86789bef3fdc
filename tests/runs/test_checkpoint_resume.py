"""Resuming from an earlier checkpoint, after a killed save and after a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_runs import SAVING, copy_of, resume, weights
from support.file_damage import halve
from support.killed_run import kill_in_step
from support.tiny import write_recipe

from orpo_cli.checkpoint_manifest import MANIFEST, CheckpointManifest, unusable_reason
from orpo_cli.json_files import read_json_lines
from orpo_cli.rundir import RunDir
from orpo_cli.training import checkpoint_writer


def test_going_back_moves_what_is_later_aside(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    metrics = (run / "metrics.jsonl").read_bytes()
    halve(run / "checkpoints" / "checkpoint-4" / "training_args.bin")
    assert resume(orpo_here, recipe, copy_of(run, tmp_path / "auto")).returncode == 0
    assert not (tmp_path / "auto" / "run" / "abandoned").exists()  # the damaged one was not gone back before
    shutil.rmtree(run)
    run = copy_of(killed_run[1], tmp_path)
    last = {path.name: path.read_bytes() for path in (run / "checkpoints" / "checkpoint-4").iterdir()}
    done = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2")
    assert done.returncode == 0, done.stderr
    aside = run / "abandoned" / "attempt-1"
    assert f"moved to {aside}" in done.stderr
    assert (aside / "metrics.jsonl").read_bytes() == metrics
    assert {path.name: path.read_bytes() for path in (aside / "checkpoints" / "checkpoint-4").iterdir()} == last
    assert weights(run) == expected


def test_a_finished_run_is_not_trained_again_from_an_earlier_checkpoint(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, _ = killed_run
    run = copy_of(run.parent / "undisturbed", tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    refused = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2")
    assert refused.returncode == 2
    assert "has finished" in refused.stderr
    assert {path: path.read_bytes() for path in before} == before
    longer = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2", "training.max_steps=7")
    assert longer.returncode == 0, longer.stderr
    assert (run / "abandoned" / "attempt-1" / "checkpoints" / "checkpoint-6").is_dir()


def test_a_full_disk_while_synchronizing_leaves_the_checkpoints_before(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that delays allocation reports that it is full in fsync."""
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_writer, "sync", full)
        failed = resume(orpo_here, recipe, run)
    assert failed.returncode == 3, failed.stderr
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert resume(orpo_here, recipe, run).returncode == 0
    assert weights(run) == expected


def test_the_next_start_removes_what_a_killed_process_was_writing(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    for name in (".checkpoint-6.partial/checkpoint-6", ".checkpoint-2.removed"):
        (run / "checkpoints" / name).mkdir(parents=True)
    assert resume(orpo_here, recipe, run).returncode == 0
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert weights(run) == expected


def test_a_setting_of_the_data_loader_that_drops_pairs_cannot_change(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    refused = resume(orpo_here, recipe, run, "auto", "training.dataloader_drop_last=true")
    assert refused.returncode == 2
    assert "training.dataloader_drop_last: None → True" in refused.stderr
    assert resume(orpo_here, recipe, run, "auto", "training.dataloader_num_workers=1").returncode == 0
    assert weights(run) == expected


def test_a_resumed_run_that_logs_no_further_step_keeps_its_last_metrics(
    tmp_path: Path, orpo_here: Callable[..., Any]
) -> None:
    recipe = write_recipe(tmp_path, estimated=False, steps=3, training={**SAVING, "logging_steps": 2})
    kill_in_step(3, recipe)
    assert orpo_here("train", recipe, "--resume", "auto").returncode == 0
    (line,) = (each for each in read_json_lines(tmp_path / "run" / "metrics.jsonl") if each["kind"] == "train")
    assert line["step"] == 2
    assert RunDir(tmp_path / "run").read_run()["final_metrics"] == line


PROCESSES = """
import sys
from pathlib import Path
from support.tiny import tiny_llama, tiny_tokenizer
from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

recipe, out = sys.argv[1:3]
plan, tokenizer = resolve(load_recipe(recipe), probe()), tiny_tokenizer()
data = prepare(plan.dataset, tokenizer, max_length=192, max_prompt_length=96, note=print)
inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train, data.eval)
trainer = make_trainer(plan, Path(out), inputs, [], print)
trainer.train(resume_from_checkpoint=sys.argv[3] if len(sys.argv) > 3 else None)
"""


@pytest.mark.slow
def test_several_processes_publish_one_checkpoint_in_one_folder(tmp_path: Path) -> None:
    """Each writes its random state; a training that continues from it ends with the same weights."""
    recipe = write_recipe(tmp_path, estimated=False, steps=4, training={**SAVING, "use_cpu": True})
    (tmp_path / "train.py").write_text(PROCESSES)
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}

    def train(out: Path, *checkpoint: Path) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*launcher, str(tmp_path / "train.py"), str(recipe), str(out), *map(str, checkpoint)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)

    train(tmp_path / "out")
    train(tmp_path / "again", tmp_path / "out" / "checkpoint-2")
    for checkpoint in (tmp_path / "out" / "checkpoint-2", tmp_path / "again" / "checkpoint-4"):
        manifest = CheckpointManifest.from_json((checkpoint / MANIFEST).read_text())
        assert manifest.world_size == 2
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= manifest.files.keys()
        assert unusable_reason(checkpoint) is None
    name = "checkpoint-4/adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-2", "checkpoint-4"]
