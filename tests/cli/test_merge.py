"""`orpo merge` as people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import make_base, make_run, stored_logits, tuned_logits

from orpo_cli.rundir import RunDir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def run(tmp_path: Path, base: Path) -> RunDir:
    return make_run(tmp_path / "run", base)


def orpo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orpo_cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_merge_prints_the_folder_and_a_second_one_says_that_it_is_done(run):
    first = orpo("merge", run.root)
    assert (first.returncode, first.stdout.strip()) == (0, str(run.merged))
    assert "verified" in first.stderr
    assert (stored_logits(run.merged) - tuned_logits(run)).abs().max() <= 1e-4
    second = orpo("merge", run.root)
    assert (second.returncode, second.stdout.strip()) == (0, str(run.merged))
    assert "already merged and verified" in second.stderr


def test_json_is_the_only_thing_on_standard_output_and_quiet_is_quiet(run, tmp_path):
    done = orpo("merge", run.root, "-o", tmp_path / "out", "--dtype", "bfloat16", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["verified"], document["dtype"]) == ("merged", True, "bfloat16")
    assert document == document | {"output": str(tmp_path / "out")}
    assert done.stderr == ""


def test_another_merge_in_the_way_exits_2(run):
    assert orpo("merge", run.root).returncode == 0
    done = orpo("merge", run.root, "--dtype", "float16", "--json")
    assert done.returncode == 2
    assert "--overwrite" in json.loads(done.stdout)["remedy"]


def test_a_bare_adapter_takes_its_base_from_the_command_line(run, tmp_path, base):
    adapter = tmp_path / "alone"
    run.adapter.rename(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    without = orpo("merge", adapter, "-o", tmp_path / "out")
    assert without.returncode == 2
    assert "--base" in without.stderr
    done = orpo("merge", adapter, "-o", tmp_path / "out", "--base", base)
    assert done.returncode == 0, done.stderr
    assert (stored_logits(tmp_path / "out") - stored_logits(base)).abs().max() > 0.1


def test_full_runs_have_nothing_to_merge_and_say_where_the_model_is(tmp_path, base):
    run = make_run(tmp_path / "full", base, full=True)
    done = orpo("merge", run.root)
    assert done.returncode == 2
    assert str(run.model) in done.stderr


def test_a_place_that_cannot_be_written_exits_3(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = orpo("merge", run.root, "-o", tmp_path / "file" / "out")
    assert done.returncode == 3, done.stderr
    assert "-o" in done.stderr
