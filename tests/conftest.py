"""Fixtures of all tests: run the command line, find the real data."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.default_signals import restore_default_signals

restore_default_signals()
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("ORPO_PAIR_CACHE", "0")  # tests of the cache switch it on, in another folder
os.environ.setdefault("ORPO_SCORE_CACHE", "0")

SLOW_SECONDS = 3600
FROZEN_MODULES = pytest.StashKey[int]()
NEW_MODULES = 100  # so many imports since the last collection are worth another one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow slow tests more time than the default of pyproject.toml."""
    for item in items:
        is_slow = item.get_closest_marker("slow") or item.get_closest_marker("gpu")
        if is_slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep the objects of imported modules out of later garbage collections, which take up to a second with them."""
    imported = len(sys.modules)
    if imported >= item.session.stash.get(FROZEN_MODULES, 0) + NEW_MODULES:
        item.session.stash[FROZEN_MODULES] = imported
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_process_remains() -> Iterator[None]:
    """A process that a test has left would keep the output of the tests open."""
    yield
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


@dataclass
class CommandResult:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Orpo = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def orpo(tmp_path: Path) -> Orpo:
    """``orpo("validate", "x.yaml")``: run the command in a new process, in ``tmp_path``, without a terminal."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300, **options}
        command = [sys.executable, "-m", "orpo_cli", *map(str, arguments)]
        return subprocess.run(command, check=False, **settings)  # type: ignore[call-overload, no-any-return]

    return run


@pytest.fixture
def orpo_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., CommandResult]:
    """``orpo_here("train", recipe)``: run the command in this process, which saves the imports; streams as in a pipe."""

    def run(*arguments: str | Path) -> CommandResult:
        from orpo_cli.cli.main import main

        monkeypatch.setattr(sys, "argv", ["orpo", *map(str, arguments)])
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):  # of the terminal that the tests run in
            monkeypatch.delenv(name, raising=False)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return CommandResult(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def real_data() -> Path:
    """The folder of real preference data: $ORPO_TEST_DATA, or shared/data next to the checkout."""
    root = Path(__file__).parents[1]
    for folder in (os.environ.get("ORPO_TEST_DATA"), root.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("real data not found: set ORPO_TEST_DATA to the folder that holds it")
