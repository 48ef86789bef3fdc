"""The nearest existing path of a missing one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.data_sources import ROWS, failure, lines, write

from orpo_cli.nearest_path import nearest_path

FILES = ("data/pairs.jsonl", "data/train.jsonl.gz", "configs/r.yaml", "configs/local.jsonl", "data/deep/er/held.csv")
RECIPE = "model: {model_name_or_path: ./model}\ndataset: {train: {path: p.jsonl}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, lines(ROWS))
    return folder


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("data/pair.jsonl", "data/pairs.jsonl"),
        ("data/Pairs.JSONL", "data/pairs.jsonl"),
        ("data/pairs.json", "data/pairs.jsonl"),
        ("data/pairs", "data/pairs.jsonl"),
        ("data/train.jsonl", "data/train.jsonl.gz"),
        ("date/pairs.jsonl", "data/pairs.jsonl"),
        ("date/pair.jsonl", "data/pairs.jsonl"),
        ("local.jsonl", "configs/local.jsonl"),
        ("held.csv", "data/deep/er/held.csv"),
        ("x/y/held.csv", "data/deep/er/held.csv"),
        ("nothing-like-it.jsonl", None),
        ("x/lcal.jsonl", "configs/local.jsonl"),
        ("data/votes.jsonl", None),
        ("configs/x.yaml", None),
        ("data/pairs.jsonl/x", None),
    ],
)
def test_the_nearest_existing_path(missing: str, near: str | None, folder: Path) -> None:
    assert nearest_path(folder / missing) == (folder / near if near else None)


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("data/mine.jsonl", "mine.jsonl"),  # the folder exists, the file is in another one
        ("data/mien.jsonl", "mine.jsonl"),
        ("wrong/pirs.jsonl", "data/sub/pairs.jsonl"),
        ("../pairs.jsonl", "data/sub/pairs.jsonl"),
        ("mine2.jsonl", "mine.jsonl"),  # not mine2.yaml, which is no data
    ],
)
def test_init_names_the_data_file_of_the_same_or_nearly_the_same_name_near_by(
    missing: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orpo_here: Callable[..., Any]
) -> None:
    project = tmp_path / "project"
    (project / "data" / "sub").mkdir(parents=True)
    monkeypatch.chdir(project)
    for name in ("mine.jsonl", "mine2.yaml", "data/sub/pairs.jsonl"):
        write(project / name, lines(ROWS))
    done = orpo_here("init", "x", "--data", missing)
    assert f"{missing}: no such file or folder. Did you mean {near}? " in done.stderr


def test_a_missing_file_names_its_neighbour_or_the_files_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert str(failure("data/pair.jsonl").remedy).startswith(
        f"Did you mean {folder / 'data/pairs.jsonl'}? A relative path"
    )
    assert str(failure("data/zzz.parquet").remedy).startswith(
        f"The folder {folder / 'data'} has deep, pairs.jsonl, train.jsonl.gz. A relative path"
    )
    assert str(failure("q/zzz.parquet").remedy).startswith(f'{folder} has no folder "q". A relative path')
    assert failure("date/*.jsonl").remedy == f"Did you mean {folder / 'data'}?"


def test_a_missing_recipe_model_template_or_configuration_names_its_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orpo_here: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    for name in ("recipe.yaml", "template.jinja", "model.txt"):
        (tmp_path / name).write_text(RECIPE)
    (tmp_path / "child.yaml").write_text("extends: recpe.yaml\n")
    sets = ("--set", "model.model_name_or_path=./modl"), ("--set", f"model.chat_template={tmp_path}/templte.jinja")
    other_suffix = ("--set", f"model.chat_template={tmp_path}/template.j2")
    for arguments, near in (
        (("validate", "recip.yaml"), "recipe.yaml"),
        (("validate", "child.yaml"), "recipe.yaml"),
        (("validate", "quickstrat"), "`quickstart`"),
        (("plan", "recipe.yaml", *sets[0]), "model"),
        (("plan", "recipe.yaml", *sets[1]), f"{tmp_path}/template.jinja"),
        (("plan", "recipe.yaml", *other_suffix), f"{tmp_path}/template.jinja"),
        (("convert", "recip.yaml"), "recipe.yaml"),
        (("generate", "./modl", "--prompt", "x"), "model"),
    ):
        done = orpo_here(*arguments)
        assert done.returncode == 2
        assert f"Did you mean {near}?" in done.stderr, done.stderr
