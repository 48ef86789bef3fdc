"""Damaged checkpoints: named, kept under another name, and replaced by the checkpoint before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_runs import STEPS, copy_of, resume, weights, weights_only
from support.file_damage import empty, flip, halve, make_directory, remove
from support.killed_run import make_run_of_version_0_2_0
from support.metric_lines import metric_lines

from orpo_cli.checkpoint_manifest import MANIFEST, unusable_reason
from orpo_cli.rundir import RunDir
from orpo_cli.training.metrics_log import MetricsCallback

DAMAGES = (halve, empty, remove, flip, make_directory)
FILES = (
    "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", MANIFEST, "optimizer.pt",
    "rng_state.pth", "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trained_totals.json", "trainer_state.json", "training_args.bin",
)  # fmt: skip


def test_the_list_of_files_is_complete(killed_run: tuple[Path, Path, bytes]) -> None:
    """So that a new file of the libraries is damaged below, too."""
    _, run, _ = killed_run
    assert sorted(path.name for path in (run / "checkpoints" / "checkpoint-4").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(name, damage, marks=() if (position + number) % len(DAMAGES) == 0 else pytest.mark.slow)
        for position, name in enumerate(FILES)
        for number, damage in enumerate(DAMAGES)
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path,
    orpo_here: Callable[..., Any],
    killed_run: tuple[Path, Path, bytes],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    checkpoint = run / "checkpoints" / "checkpoint-4"
    damage(checkpoint / name)
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    done = resume(orpo_here, recipe, run)
    assert done.returncode == 0, done.stderr
    assert weights(run) == expected
    assert f"{checkpoint} is not used, and left as it is: damaged:" in done.stderr
    assert name in done.stderr
    assert f"resuming from {run / 'checkpoints' / 'checkpoint-2'}" in done.stderr
    kept = checkpoint.with_name("checkpoint-4.damaged")
    assert {
        checkpoint / path.relative_to(kept): path.read_bytes() for path in kept.rglob("*") if path.is_file()
    } == before
    assert unusable_reason(checkpoint) is None


def test_a_manifest_of_another_checkpoint_is_noticed(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    """Also one with the right step."""
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    before, last = (run / "checkpoints" / f"checkpoint-{step}" for step in (2, 4))
    shutil.copy2(before / MANIFEST, last / MANIFEST)
    assert unusable_reason(last) == "damaged: its manifest.json is that of step 2"
    (last / MANIFEST).write_text((last / MANIFEST).read_text().replace('"step": 2', '"step": 4'))
    assert unusable_reason(last) == "damaged: the content of manifest.json has changed"
    done = resume(orpo_here, recipe, run)
    assert done.returncode == 0, done.stderr
    assert weights(run) == expected


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, halve) for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")),
        *((name, flip) for name in ("optimizer.pt", "rng_state.pth")),
        *((name, remove) for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")),
        ("optimizer.pt", empty),
        ("adapter_config.json", empty),
        ("rng_state.pth", make_directory),
    ],
)  # fmt: skip
def test_checkpoints_of_version_0_2_0_are_checked_by_loading(
    tmp_path: Path, killed_run: tuple[Path, Path, bytes], name: str, damage: Callable[[Path], None]
) -> None:
    rundir = RunDir(copy_of(killed_run[1], tmp_path))
    before, last = (rundir.checkpoints / f"checkpoint-{step}" for step in (2, 4))
    make_run_of_version_0_2_0(rundir)
    assert rundir.last_checkpoint() == last
    damage(last / name)
    assert name in str(rundir.unusable_reason(last)) or "no weights" in str(rundir.unusable_reason(last))
    assert rundir.last_checkpoint() == before


def test_a_run_whose_checkpoints_are_all_damaged_starts_over_in_place(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    (run / "notes.txt").write_text("mine")
    for step in (2, 4):
        halve(run / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt")
    refused = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-4")
    assert refused.returncode == 2
    assert "cannot be used: damaged: optimizer.pt has" in refused.stderr
    done = resume(orpo_here, recipe, run)
    assert done.returncode == 0, done.stderr
    assert "starting from step 0" in done.stderr
    assert weights(run) == expected
    assert (run / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "checkpoint-2", "checkpoint-2.damaged", "checkpoint-4", "checkpoint-4.damaged", "checkpoint-6",
    ]  # fmt: skip
    steps = [line["step"] for line in metric_lines(run)]
    assert steps == list(range(1, STEPS + 1))


def test_values_that_are_not_finite_are_said_and_never_resumed_from(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer of step 4 has an infinite value, which the loss does not show before the next step."""
    recipe, _, expected = killed_run
    run, on_step_end = tmp_path / "run", MetricsCallback.on_step_end

    def overflow(self: MetricsCallback, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 4:
            first = next(iter(self.trainer.optimizer.state.values()))
            first["exp_avg"].view(-1)[3] = float("inf")
        on_step_end(self, args, state, control, **more)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsCallback, "on_step_end", overflow)
        failed = orpo_here("train", recipe, "--set", f"output_dir={run}")
    assert failed.returncode == 5
    assert "checkpoint-4 has infinite or NaN values" in failed.stderr
    manifest = json.loads((run / "checkpoints" / "checkpoint-4" / MANIFEST).read_text())
    assert (manifest["finite"], manifest["step"], manifest["world_size"]) == (False, 4, 1)
    done = resume(orpo_here, recipe, run)
    assert done.returncode == 0, done.stderr
    assert "infinite or NaN values" in done.stderr
    assert f"resuming from {run / 'checkpoints' / 'checkpoint-2'}" in done.stderr
    assert weights(run) == expected


@pytest.mark.parametrize("kind", ["link to nothing", "file"])
def test_a_checkpoint_that_is_no_folder_is_named_and_kept(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes], kind: str
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    last = run / "checkpoints" / "checkpoint-4"
    shutil.rmtree(last)
    if kind == "file":
        last.write_text("x")
    else:
        last.symlink_to("/nonexistent")
    done = resume(orpo_here, recipe, run)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-4 is not used, and left as it is: damaged" in done.stderr
    assert weights(run) == expected
    assert os.path.lexists(last.with_name("checkpoint-4.damaged"))


def test_an_intact_checkpoint_with_weights_only_is_not_called_damaged(
    tmp_path: Path, orpo_here: Callable[..., Any], killed_run: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed_run
    run = copy_of(run, tmp_path)
    weights_only(run / "checkpoints" / "checkpoint-4")
    assert resume(orpo_here, recipe, run).returncode == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "checkpoint-2", "checkpoint-4", "checkpoint-4.replaced", "checkpoint-6",
    ]  # fmt: skip
    assert weights(run) == expected
