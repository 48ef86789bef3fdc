"""The pipeline of docs/how-to/ci.md, run as the page shows it: from a recipe to the hub, a second time, and with failing commands."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.loopback_hub import LoopbackHub, account
from support.tiny import write_recipe

from orpo_cli.rundir import RunDir

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ci.md"
REPO = "me/tiny"


def pipeline(folder: Path) -> Path:
    """The script of the page, and an `orpo` in front of the PATH."""
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = folder / "pipeline.sh"
    path.write_text(script)
    command = folder / "bin" / "orpo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m orpo_cli "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return path


def run(script: Path, hub: LoopbackHub, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    folder = script.parent
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HF_HOME": str(folder / "hf"),
        "ORPO_HUB_PATIENCE": "2",
        "PAUSE": "1",
        "FORMAT": "safetensors",
    }
    return subprocess.run(
        ["bash", script, *map(str, arguments)], cwd=folder, env={**inherited, **own, **hub.environment(), **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_pipeline_of_the_page_leads_from_a_recipe_to_the_hub_and_can_be_started_again(tmp_path: Path) -> None:
    script, recipe = pipeline(tmp_path), write_recipe(tmp_path, steps=8, training={"learning_rate": 1.0e-2})
    with LoopbackHub() as hub:
        hub.fail("POST", "/commit/", status=500, times=4)  # more than one push waits for: the script tries again
        done = run(script, hub, recipe, REPO)
        assert done.returncode == 0, done.stderr
        assert "push-to-hub: exit code 6" in done.stderr
        assert done.stdout == f"{hub.url}/{REPO}\n"  # nothing else is on standard output
        made = RunDir(tmp_path / "run")
        there = hub.repos[REPO].files()
        assert there["model.safetensors"] == (made.merged / "model.safetensors").read_bytes()
        assert there["adapter/adapter_model.safetensors"] == (made.adapter / "adapter_model.safetensors").read_bytes()
        assert b"## Before and after" in there["README.md"]
        commits, sent = len(hub.repos[REPO].messages), hub.count("PUT")
        again = run(script, hub, recipe, REPO)
        assert again.returncode == 0, again.stderr
        assert json.loads((tmp_path / "results" / "push-to-hub.json").read_text())["status"] in ("unchanged", "pushed")
        assert (len(hub.repos[REPO].messages) - commits, hub.count("PUT") - sent) in ((0, 0), (1, 0))


def test_the_pipeline_ends_with_the_code_of_the_step_that_failed(tmp_path: Path) -> None:
    script = pipeline(tmp_path)
    (tmp_path / "bad.yaml").write_text(
        "model: {model_name_or_path: x}\ndataset: {train: {path: x.jsonl}}\nlearning_rate: 1\n"
    )
    with LoopbackHub() as hub:
        done = run(script, hub, "bad.yaml", REPO)
    assert done.returncode == 2
    assert "validate: exit code 2" in done.stderr
    assert done.stdout == ""


def test_the_pipeline_trains_nothing_and_retries_nothing_if_the_hub_refuses_the_push(tmp_path: Path) -> None:
    script, recipe = pipeline(tmp_path), write_recipe(tmp_path, steps=8)
    with LoopbackHub() as hub:
        hub.whoami = account("me", "read")
        done = run(script, hub, recipe, REPO)
        assert hub.count("GET", "whoami") == 1
    assert done.returncode == 7, done.stderr
    assert "push-to-hub: exit code 7" in done.stderr
    assert "may read but not write" in done.stderr
    assert not (tmp_path / "run").exists()
