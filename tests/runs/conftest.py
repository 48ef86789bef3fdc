"""A killed run, shared by the tests of checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoint_runs import KILLED_IN, SAVING, STEPS, weights
from support.forked_command import run_here
from support.killed_run import kill_in_step
from support.tiny import write_recipe


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """Recipe, a run that was killed in step 5 with checkpoints of steps 2 and 4, and the weights of an undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, estimated=False, steps=STEPS, training=SAVING)
    whole = folder / "undisturbed"
    assert run_here("train", recipe, "--set", f"output_dir={whole}") == 0
    kill_in_step(KILLED_IN, recipe)
    return recipe, folder / "run", weights(whole)
