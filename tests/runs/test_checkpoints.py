"""Checkpoints: complete or absent, verified on resume, retained while they are of use. Real runs, real damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.forked_command import run_here
from support.killed_run import kill_in_step, make_run_of_version_0_2_0
from support.metric_lines import metric_lines
from support.tiny import write_recipe

from orpo_cli.checkpoint_manifest import MANIFEST, CheckpointManifest, unusable_reason
from orpo_cli.rundir import RunDir
from orpo_cli.training import checkpoint_writer
from orpo_cli.training.metrics_log import MetricsCallback
from orpo_cli.training.retention import keep_only, remove_old_checkpoints

STEPS, KILLED_IN = 6, 5
RESUME = ("--resume", "auto")
SAVING = {"save_strategy": "steps", "save_steps": 2}


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """Recipe, a run that was killed in step 5 with checkpoints of steps 2 and 4, and the weights of an undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, estimated=False, steps=STEPS, training=SAVING)
    whole = folder / "undisturbed"
    assert run_here("train", recipe, "--set", f"output_dir={whole}") == 0
    kill_in_step(KILLED_IN, recipe)
    return recipe, folder / "run", weights(whole)


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (halve, empty, remove, flip, make_directory)
FILES = (
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", MANIFEST, "optimizer.pt",
    "rng_state.pth", "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trained_totals.json", "trainer_state.json", "training_args.bin",
)  # fmt: skip


def test_the_list_of_files_is_complete(killed: tuple[Path, Path, bytes]) -> None:
    """So that a new file of the libraries is damaged below, too."""
    _, run, _ = killed
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
    killed: tuple[Path, Path, bytes],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    recipe, run, expected = killed
    run = copy_of(run, tmp_path)
    checkpoint = run / "checkpoints" / "checkpoint-4"
    damage(checkpoint / name)
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    done = orpo_here("train", recipe, *RESUME, "--set", f"output_dir={run}")
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


def resume(orpo_here: Callable[..., Any], recipe: Path, run: Path, how: object = "auto", *settings: str) -> Any:
    overrides = [part for setting in (f"output_dir={run}", *settings) for part in ("--set", setting)]
    return orpo_here("train", recipe, "--resume", how, *overrides)


def test_a_manifest_of_another_checkpoint_is_noticed(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    """Also one with the right step."""
    recipe, run, expected = killed
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
    tmp_path: Path, killed: tuple[Path, Path, bytes], name: str, damage: Callable[[Path], None]
) -> None:
    rundir = RunDir(copy_of(killed[1], tmp_path))
    before, last = (rundir.checkpoints / f"checkpoint-{step}" for step in (2, 4))
    make_run_of_version_0_2_0(rundir)
    assert rundir.last_checkpoint() == last
    damage(last / name)
    assert name in str(rundir.unusable_reason(last)) or "no weights" in str(rundir.unusable_reason(last))
    assert rundir.last_checkpoint() == before


def test_a_run_whose_checkpoints_are_all_damaged_starts_over_in_place(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed
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


def test_going_back_moves_what_is_later_aside(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed
    run = copy_of(run, tmp_path)
    metrics = (run / "metrics.jsonl").read_bytes()
    halve(run / "checkpoints" / "checkpoint-4" / "training_args.bin")
    assert resume(orpo_here, recipe, copy_of(run, tmp_path / "auto")).returncode == 0
    assert not (tmp_path / "auto" / "run" / "abandoned").exists()  # the damaged one was not gone back before
    shutil.rmtree(run)
    run = copy_of(killed[1], tmp_path)
    last = {path.name: path.read_bytes() for path in (run / "checkpoints" / "checkpoint-4").iterdir()}
    done = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2")
    assert done.returncode == 0, done.stderr
    aside = run / "abandoned" / "attempt-1"
    assert f"moved to {aside}" in done.stderr
    assert (aside / "metrics.jsonl").read_bytes() == metrics
    assert {path.name: path.read_bytes() for path in (aside / "checkpoints" / "checkpoint-4").iterdir()} == last
    assert weights(run) == expected


def test_a_finished_run_is_not_trained_again_from_an_earlier_checkpoint(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    recipe, run, _ = killed
    run = copy_of(run.parent / "undisturbed", tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    refused = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2")
    assert refused.returncode == 2
    assert "has finished" in refused.stderr
    assert {path: path.read_bytes() for path in before} == before
    longer = resume(orpo_here, recipe, run, run / "checkpoints" / "checkpoint-2", "training.max_steps=7")
    assert longer.returncode == 0, longer.stderr
    assert (run / "abandoned" / "attempt-1" / "checkpoints" / "checkpoint-6").is_dir()


def test_values_that_are_not_finite_are_said_and_never_resumed_from(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer of step 4 has an infinite value, which the loss does not show before the next step."""
    recipe, _, expected = killed
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


def test_a_full_disk_while_synchronizing_leaves_the_checkpoints_before(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that delays allocation reports that it is full in fsync."""
    recipe, run, expected = killed
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


@pytest.mark.parametrize("kind", ["link to nothing", "file"])
def test_a_checkpoint_that_is_no_folder_is_named_and_kept(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes], kind: str
) -> None:
    recipe, run, expected = killed
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


def test_the_next_start_removes_what_a_killed_process_was_writing(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed
    run = copy_of(run, tmp_path)
    for name in (".checkpoint-6.partial/checkpoint-6", ".checkpoint-2.removed"):
        (run / "checkpoints" / name).mkdir(parents=True)
    assert resume(orpo_here, recipe, run).returncode == 0
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert weights(run) == expected


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


def test_retention_keeps_the_last_valid_and_finite_checkpoint(tmp_path: Path, killed: tuple[Path, Path, bytes]) -> None:
    """Damaged ones are neither counted nor removed, nor those of later steps."""
    source = killed[1].parent / "undisturbed" / "checkpoints"
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


def weights_only(checkpoint: Path) -> None:
    manifest = CheckpointManifest.from_json((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(replace(manifest, resumable=False).to_json())


def test_retention_keeps_the_last_checkpoint_with_the_state_of_the_optimizer(
    tmp_path: Path, killed: tuple[Path, Path, bytes]
) -> None:
    """A run that is resumed with ``save_only_model`` saves checkpoints that cannot be resumed from."""
    shutil.copytree(killed[1].parent / "undisturbed" / "checkpoints", tmp_path, dirs_exist_ok=True)
    weights_only(tmp_path / "checkpoint-6")
    remove_old_checkpoints(tmp_path, 6, 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    keep_only(tmp_path / "checkpoint-6")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("damage", [flip, remove, None])
def test_a_best_checkpoint_that_is_damaged_or_lost_does_not_remove_the_others(
    tmp_path: Path, killed: tuple[Path, Path, bytes], damage: Callable[[Path], None] | None
) -> None:
    shutil.copytree(killed[1].parent / "undisturbed" / "checkpoints", tmp_path, dirs_exist_ok=True)
    best = tmp_path / "checkpoint-2"
    if damage is None:
        shutil.rmtree(best)
    else:
        damage(best / "adapter_model.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    keep_only(best)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_intact_checkpoint_with_weights_only_is_not_called_damaged(
    tmp_path: Path, orpo_here: Callable[..., Any], killed: tuple[Path, Path, bytes]
) -> None:
    recipe, run, expected = killed
    run = copy_of(run, tmp_path)
    weights_only(run / "checkpoints" / "checkpoint-4")
    assert resume(orpo_here, recipe, run).returncode == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "checkpoint-2", "checkpoint-4", "checkpoint-4.replaced", "checkpoint-6",
    ]  # fmt: skip
    assert weights(run) == expected


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
