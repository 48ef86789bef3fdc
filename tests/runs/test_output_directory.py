"""Output directories: those that cannot have a run, and one below a link."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.killed_run import RESUME, Orpo
from support.tiny import write_recipe


@pytest.mark.parametrize("more", [(), RESUME], ids=["start", "resume"])
def test_directories_that_cannot_have_a_run_are_refused_at_once(
    tmp_path: Path, orpo_here: Orpo, more: tuple[str, ...]
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, code, message in (
        ("n" * 300, 3, "File name too long"),
        ("link", 2, "is a link to nowhere"),
        ("recipe.yaml", 2, "is a file"),
        ("recipe.yaml/run", 2, "recipe.yaml is a file"),
        ("full/", 2, "is not empty, and is not a run"),
    ):
        refused = orpo_here("train", recipe, *more, "--set", f"output_dir={tmp_path}/{name}")
        assert refused.returncode == code, refused.stderr
        assert message in refused.stderr
        assert "output_dir=DIR" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_a_run_below_a_link_is_trained_resumed_and_merged(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, estimated=False, steps=1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    train = ("train", recipe, "--set", f"output_dir={tmp_path / 'run'}/")
    assert orpo_here(*train).returncode == 0
    assert "nothing to resume" in orpo_here(*train, *RESUME).stderr
    assert orpo_here("merge", tmp_path / "run").returncode == 0
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "merged" / "config.json").is_file()
