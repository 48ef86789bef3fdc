"""``orpo train`` starts itself again with glibc's heap set; no other program that calls it does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.cli.heap import NAME, VALUE

PROGRAM = """
import os, sys
{before}
from orpo_cli.cli.heap import start_again
start_again()
print(os.getpid(), os.environ.get("{name}"))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this heap")


def heap_of(folder: Path, *arguments: str, before: str = "", **variables: str) -> str:
    program = folder / "program.py"
    program.write_text(PROGRAM.format(before=before, name=NAME))
    environment = {name: value for name, value in os.environ.items() if name != NAME} | variables
    with subprocess.Popen(
        [sys.executable, str(program), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        number, value = running.stdout.read().split()
    assert int(number) == running.pid  # the same process, so that signals and exit codes arrive
    return value


def test_training_has_its_heap_set(tmp_path: Path) -> None:
    assert heap_of(tmp_path, "train", "recipe.yaml") == VALUE


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    assert heap_of(tmp_path, "train", "recipe.yaml", **{NAME: "glibc.malloc.arena_max=1"}) == "glibc.malloc.arena_max=1"


def test_other_commands_and_other_programs_start_once(tmp_path: Path) -> None:
    assert heap_of(tmp_path, "plan", "recipe.yaml") == "None"
    assert heap_of(tmp_path, before="sys.argv = ['orpo', 'train', 'recipe.yaml']") == "None"
