"""Recipes of strangers: each ends with a message, in bounded time and memory, shows no private file and writes nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.forked_orpo import run_forked
from support.hostile_recipes import TEXT_OF_FILE, HostileRecipe, hostile_recipes, prepare_world
from support.tiny import write_recipe

SECRET = "hf_plantedInTheEnvironment0123"
SECONDS, MEMORY_BYTES = 120, 3 << 30
RECIPES = list(hostile_recipes())
QUICK = {
    "extends-4", "extends-6", "extends-7", "output_dir-3", "name-0", "model-1", "template-0", "dataset-4", "dataset-11", "number-1",
    "billion laughs", "deep flow", "python object",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "folder" / "of" / "recipe"
    folder.mkdir(parents=True)
    write_recipe(folder)
    prepare_world(folder)
    return folder


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """All files and directories with size and time of change, except the run directories and the caches."""
    allowed = {folder / name for name in ("run", "runs", "cache", "hostile.yaml")}
    found = {}
    for root, directories, names in os.walk(folder.parents[2]):
        directories[:] = [name for name in directories if Path(root, name) not in allowed]
        for path in (Path(root, name) for name in (*directories, *names)):
            if path not in allowed:
                status = path.lstat()
                found[path] = (status.st_size if path.is_file() else 0, status.st_mtime_ns if path.is_file() else 0)
    return found


def check(world: Path, recipe: HostileRecipe) -> tuple[list[str], str]:
    """Run the command on the recipe: what is not as it should be, and the output."""
    path = world / "hostile.yaml"
    path.write_bytes(recipe.text if isinstance(recipe.text, bytes) else recipe.text.encode())
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(world / "home"), "HF_HOME": str(world / "cache" / "hf"), "HF_TOKEN": SECRET,
        "HF_HUB_OFFLINE": "1", "ORPO_CACHE": str(world / "cache"), "TMPDIR": str(world / "cache"), "NO_PROXY": "*",
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true", "LANG": "C.UTF-8",
    }  # fmt: skip
    (world / "cache").mkdir(exist_ok=True)
    before = files(world)
    ended = run_forked(world, environment, recipe.command, path, seconds=SECONDS)
    output, after = ended.out + ended.err, files(world)
    found = {
        f"exit code {ended.code}": ended.code not in (0, 2, 3, 4),
        "a traceback": "Traceback" in output,
        "shows a secret": any(text in output for text in (SECRET, TEXT_OF_FILE, "root:x:0:0")),
        f"prints {len(output):,} characters": len(output) > 100_000,
        f"needs {ended.peak_bytes / 1e9:.1f} GB": ended.peak_bytes > MEMORY_BYTES,
    }
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [*(text for text, holds in found.items() if holds), *(f"changes {path}" for path in changed)], output


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.slow) for each in RECIPES],
)
def test_a_hostile_recipe_ends_with_a_message(
    world: Path, recipe: HostileRecipe, record_property: Callable[[str, object], None]
) -> None:
    problems, output = check(world, recipe)
    outcome = {
        "campaign": "recipes of strangers",
        "case": recipe.name,
        "command": recipe.command,
        "cases": 1,
        "failures": 0,
    }
    record_property("outcome", {**outcome, "problems": problems, "finished": None, "identical": None})
    assert problems == [], output[-3000:]


def test_there_are_a_hundred() -> None:
    assert len({each.name for each in RECIPES}) == len(RECIPES) >= 100
    assert {each.name for each in RECIPES} >= QUICK
