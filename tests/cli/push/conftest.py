"""Runs to push, and the hub server that they are pushed to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loopback_hub import LoopbackHub
from support.push_cli import (
    TOKEN,
)
from support.tiny_run import make_base, make_run

from orpo_cli.rundir import RunDir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", base)


@pytest.fixture
def run(tmp_path: Path, finished_run: RunDir) -> RunDir:
    return RunDir(Path(shutil.copytree(finished_run.root, tmp_path / "run")))


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(token=TOKEN) as hub:
        yield hub
