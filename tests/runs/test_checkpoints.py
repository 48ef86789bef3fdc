"""Checkpoints: complete or absent, verified on resume, retained while they are of use. Real runs, real damage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe

from orpo_cli.checkpoint_manifest import MANIFEST, unusable_reason

STEPS, KILLED_IN = 6, 5
RESUME = ("--resume", "auto")
SAVING = {"save_strategy": "steps", "save_steps": 2}

KILLED = """
import os, signal, sys
from orpo_cli.cli.main import main
from orpo_cli.training.metrics_log import MetricsCallback
number, sys.argv = int(sys.argv[1]), ["orpo", *sys.argv[2:]]
begin = MetricsCallback.on_step_begin
def killed(self, args, state, control, **more):
    if state.global_step + 1 == number:
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self, args, state, control, **more)
MetricsCallback.on_step_begin = killed
main()
"""


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def kill_in_step(step: int, *arguments: object) -> None:
    command = [sys.executable, "-c", KILLED, str(step), "train", *map(str, arguments)]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """Recipe, a run that was killed in step 5 with checkpoints of steps 2 and 4, and the weights of an undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, steps=STEPS, training=SAVING)
    whole = folder / "undisturbed"
    command = [sys.executable, "-m", "orpo_cli", "train", str(recipe), "--set", f"output_dir={whole}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
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
    "rng_state.pth", "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "training_args.bin",
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
    if name == MANIFEST and damage is remove:  # as a checkpoint of version 0.2.0, which is checked by loading it
        assert f"resuming from {checkpoint}" in done.stderr
        return
    assert f"{checkpoint} is not used, and left as it is: damaged:" in done.stderr
    assert name in done.stderr
    assert f"resuming from {run / 'checkpoints' / 'checkpoint-2'}" in done.stderr
    kept = checkpoint.with_name("checkpoint-4.damaged")
    assert {
        checkpoint / path.relative_to(kept): path.read_bytes() for path in kept.rglob("*") if path.is_file()
    } == before
    assert unusable_reason(checkpoint) is None
