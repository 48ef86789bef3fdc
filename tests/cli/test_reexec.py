"""`orpo train` and `orpo quickstart` re-execute themselves with allocator variables; other commands, and programs that call main(), do not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.cli.reexec import CUDA_ALLOCATOR_SETTING, GLIBC_VALUE, GLIBC_VARIABLE, OLD_CUDA_VARIABLE

PROGRAM = """
import os, sys
{before}
from orpo_cli.cli.reexec import reexec_with_environment
reexec_with_environment()
print(os.getpid(), os.environ.get("{name}"), os.environ.get("PYTORCH_ALLOC_CONF"))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def read_variables(folder: Path, *arguments: str, before: str = "", **variables: str) -> tuple[str, str]:
    """Run a program that calls ``reexec_with_environment``; returns its values of both variables."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(before=before, name=GLIBC_VARIABLE))
    environment = {
        name: value for name, value in os.environ.items() if name not in (GLIBC_VARIABLE, CUDA_ALLOCATOR_SETTING[0])
    } | variables
    with subprocess.Popen(
        [sys.executable, str(program), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        process_id, glibc, segments = running.stdout.read().split()
    assert int(process_id) == running.pid  # the same process, so that signals and exit codes arrive
    return glibc, segments


def read_glibc_variable(folder: Path, *arguments: str, before: str = "", **variables: str) -> str:
    return read_variables(folder, *arguments, before=before, **variables)[0]


def test_train_runs_with_the_glibc_setting(tmp_path: Path) -> None:
    assert read_glibc_variable(tmp_path, "train", "recipe.yaml") == GLIBC_VALUE


def test_a_value_set_by_the_user_is_kept(tmp_path: Path) -> None:
    assert (
        read_glibc_variable(tmp_path, "train", "recipe.yaml", **{GLIBC_VARIABLE: "glibc.malloc.arena_max=1"})
        == "glibc.malloc.arena_max=1"
    )


def test_other_commands_and_programs_are_not_re_executed(tmp_path: Path) -> None:
    assert read_glibc_variable(tmp_path, "plan", "recipe.yaml") == "None"
    assert read_glibc_variable(tmp_path, before="sys.argv = ['orpo', 'train', 'recipe.yaml']") == "None"


def test_cuda_segments_are_expandable_unless_the_user_sets_otherwise(tmp_path: Path) -> None:
    assert read_variables(tmp_path, "train", "recipe.yaml")[1] == "expandable_segments:True"
    assert read_variables(tmp_path, "train", "recipe.yaml", PYTORCH_ALLOC_CONF="backend:native")[1] == "backend:native"
    assert read_variables(tmp_path, "train", "recipe.yaml", **{OLD_CUDA_VARIABLE: "backend:native"})[1] == "None"
    assert read_variables(tmp_path, "plan", "recipe.yaml")[1] == "None"
