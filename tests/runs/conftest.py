"""Killed runs, shared by the tests of checkpoints, of owners and of records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.checkpoint_runs import KILLED_IN, SAVING, STEPS, weights
from support.forked_command import run_here
from support.killed_run import kill_in_step
from support.tiny import write_recipe

from orpo_cli.rundir import RunDir


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """Recipe, a run that was killed in step 5 with checkpoints of steps 2 and 4, and the weights of an undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, estimated=False, steps=STEPS, training=SAVING)
    whole = folder / "undisturbed"
    assert run_here("train", recipe, "--set", f"output_dir={whole}") == 0
    kill_in_step(KILLED_IN, recipe)
    return recipe, folder / "run", weights(whole)


@pytest.fixture(scope="session")
def folder_of_killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe of 6 steps and of its run, which was killed after its second checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, estimated=False, steps=STEPS, training=SAVING)
    kill_in_step(STEPS, recipe)
    return folder


@pytest.fixture
def killed(folder_of_killed_run: Path, tmp_path: Path) -> tuple[Path, RunDir]:
    """A copy of the recipe and of the killed run."""
    folder = Path(shutil.copytree(folder_of_killed_run, tmp_path / "copy"))
    texts = ("recipe.yaml", "run/recipe.yaml", "run/recipe.original.yaml", "run/plan.json")
    for path in (folder / name for name in texts):
        path.write_text(path.read_text().replace(str(folder_of_killed_run), str(folder)))
    return folder / "recipe.yaml", RunDir(folder / "run")
