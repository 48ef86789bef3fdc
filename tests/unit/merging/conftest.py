"""A tiny base model, a tied one, and a run with an adapter for the base."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_run import make_base, make_run

from orpo_cli.rundir import RunDir


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture
def run(tmp_path: Path, base: Path) -> RunDir:
    return make_run(tmp_path / "run", base)
