"""``orpo train`` starts itself again with glibc's heap set; no other program that calls it does."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.cli.allocator_env import CUDA_ALLOCATOR_SETTING, GLIBC_VALUE, GLIBC_VARIABLE, OLD_CUDA_VARIABLE

PROGRAM = """
import os, sys
{before}
from orpo_cli.cli.allocator_env import reexec_with_allocator_env
reexec_with_allocator_env()
print(os.getpid(), os.environ.get("{name}"), os.environ.get("PYTORCH_ALLOC_CONF"))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this heap")


def started(folder: Path, *arguments: str, before: str = "", **variables: str) -> tuple[str, str]:
    """What the program finds in the two variables."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(before=before, name=GLIBC_VARIABLE))
    environment = {
        name: value for name, value in os.environ.items() if name not in (GLIBC_VARIABLE, CUDA_ALLOCATOR_SETTING[0])
    } | variables
    with subprocess.Popen(
        [sys.executable, str(program), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        number, heap, segments = running.stdout.read().split()
    assert int(number) == running.pid  # the same process, so that signals and exit codes arrive
    return heap, segments


def heap_of(folder: Path, *arguments: str, before: str = "", **variables: str) -> str:
    return started(folder, *arguments, before=before, **variables)[0]


def test_training_has_its_heap_set(tmp_path: Path) -> None:
    assert heap_of(tmp_path, "train", "recipe.yaml") == GLIBC_VALUE


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    assert (
        heap_of(tmp_path, "train", "recipe.yaml", **{GLIBC_VARIABLE: "glibc.malloc.arena_max=1"})
        == "glibc.malloc.arena_max=1"
    )


def test_other_commands_and_other_programs_start_once(tmp_path: Path) -> None:
    assert heap_of(tmp_path, "plan", "recipe.yaml") == "None"
    assert heap_of(tmp_path, before="sys.argv = ['orpo', 'train', 'recipe.yaml']") == "None"


def test_a_gpus_segments_may_grow_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    assert started(tmp_path, "train", "recipe.yaml")[1] == "expandable_segments:True"
    assert started(tmp_path, "train", "recipe.yaml", PYTORCH_ALLOC_CONF="backend:native")[1] == "backend:native"
    assert started(tmp_path, "train", "recipe.yaml", **{OLD_CUDA_VARIABLE: "backend:native"})[1] == "None"
    assert started(tmp_path, "plan", "recipe.yaml")[1] == "None"
