"""Which checkpoints a limit keeps: the best, and the last that is valid, finite and can be resumed from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_runs import SAVING, resume, weights, weights_only
from support.file_damage import flip, halve, remove
from support.tiny import write_recipe

from orpo_cli.checkpoint_manifest import MANIFEST, CheckpointManifest
from orpo_cli.rundir import RunDir
from orpo_cli.training.retention import keep_only, remove_old_checkpoints


def test_the_best_checkpoint_is_named_by_its_final_folder(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    """It is loaded at the end, and kept alone with a limit of one."""
    recipe = write_recipe(
        tmp_path,
        steps=4,
        training={
            **SAVING, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1,        },
    )  # fmt: skip
    run = tmp_path / "run"
    assert orpo_here("train", recipe).returncode == 0
    (best,) = (run / "checkpoints").iterdir()
    assert RunDir(run).read_run()["best_checkpoint"] == str(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert weights(run) == (expected := (best / "adapter_model.safetensors").read_bytes())
    moved = run.rename(tmp_path / "moved")
    shutil.rmtree(moved / "adapter")
    done = resume(orpo_here, recipe, moved)
    assert done.returncode == 0, done.stderr
    assert weights(moved) == expected


def test_retention_keeps_the_last_valid_and_finite_checkpoint(
    tmp_path: Path, killed_run: tuple[Path, Path, bytes]
) -> None:
    """Damaged ones are neither counted nor removed, nor those of later steps."""
    source = killed_run[1].parent / "undisturbed" / "checkpoints"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    names = lambda: sorted(path.name for path in tmp_path.iterdir())  # noqa: E731
    halve(tmp_path / "checkpoint-2" / "rng_state.pth")
    remove_old_checkpoints(tmp_path, 6, 1, None)
    assert names() == ["checkpoint-2", "checkpoint-6"]

    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoint-6"
    manifest = CheckpointManifest.from_json((last / MANIFEST).read_text())
    (last / MANIFEST).write_text(replace(manifest, finite=False).to_json())
    flip(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
    remove_old_checkpoints(tmp_path, 6, 1, None)
    assert names() == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]

    shutil.rmtree(tmp_path)
    shutil.copytree(source, tmp_path)
    remove_old_checkpoints(tmp_path, 4, 1, None)
    assert names() == ["checkpoint-4", "checkpoint-6"]
    remove_old_checkpoints(tmp_path, 6, 1, str(tmp_path / "checkpoint-4"))
    assert names() == ["checkpoint-4", "checkpoint-6"]


def test_retention_keeps_the_last_checkpoint_with_the_state_of_the_optimizer(
    tmp_path: Path, killed_run: tuple[Path, Path, bytes]
) -> None:
    """A run that is resumed with ``save_only_model`` saves checkpoints that cannot be resumed from."""
    shutil.copytree(killed_run[1].parent / "undisturbed" / "checkpoints", tmp_path, dirs_exist_ok=True)
    weights_only(tmp_path / "checkpoint-6")
    remove_old_checkpoints(tmp_path, 6, 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    keep_only(tmp_path / "checkpoint-6")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("damage", [flip, remove, None])
def test_a_best_checkpoint_that_is_damaged_or_lost_does_not_remove_the_others(
    tmp_path: Path, killed_run: tuple[Path, Path, bytes], damage: Callable[[Path], None] | None
) -> None:
    shutil.copytree(killed_run[1].parent / "undisturbed" / "checkpoints", tmp_path, dirs_exist_ok=True)
    best = tmp_path / "checkpoint-2"
    if damage is None:
        shutil.rmtree(best)
    else:
        damage(best / "adapter_model.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    keep_only(best)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
