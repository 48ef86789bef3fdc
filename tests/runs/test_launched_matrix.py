"""`orpo train` in two and four processes: every kind of training is the run of one process with the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.launched import assert_same_training, train, write_inputs, write_rank_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KINDS: dict[str, dict[str, Any]] = {
    "adapter": {},
    "full weights": {"lora": None},
    "4-bit": {"quantization": {"load_in_4bit": True}},
    "checkpointing": {"training": {"gradient_checkpointing": True}},
    "trl's own path": {"engine": {"fast_path": "off"}},
}


def run_of(root: Path, kind: str, inputs: Path, processes: int) -> Path:
    folder = write_rank_recipe(root / f"{kind}-{processes}".replace(" ", "-"), inputs, processes)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for section, values in KINDS[kind].items():
        recipe[section] = values and {**recipe.get(section, {}), **values}
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({key: value for key, value in recipe.items() if value is not None})
    )
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pairs with 8 a step, so that the last step has fewer pairs than the others; 7 held-out pairs."""
    return write_inputs(tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_and_four_processes_train_the_run_of_one(kind: str, inputs: Path, tmp_path: Path) -> None:
    expected = run_of(tmp_path, kind, inputs, 1)
    for processes in (2, 4):
        assert_same_training(
            run_of(tmp_path, kind, inputs, processes), expected, relative=1e-6 if kind != "4-bit" else 1e-5
        )
