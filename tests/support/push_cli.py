"""Helpers for tests of `orpo push-to-hub`: the command as a process, runs with merged or gated models, expected files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.rundir import RunDir
from support.loopback_hub import LoopbackHub
from support.tiny_run import make_run

TOKEN = "hf_plantedSecret0123456789abcdef"

REPO = "me/tiny"


def orpo(hub: LoopbackHub, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `orpo ARGUMENTS` with the environment of ``hub``; check that no output contains the token."""
    home = {"HF_HOME": "/nonexistent/hf", "HF_TOKEN_PATH": "/nonexistent/token", "ORPO_HUB_PATIENCE": "4"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", "orpo_cli", *map(str, arguments)],
        env={**inherited, **home, **hub.environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def pushed_adapter_config(folder: Path) -> bytes:
    """adapter_config.json as it is pushed: the base of these runs is on this machine, and so it names none."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return json.dumps({**config, "base_model_name_or_path": None}, indent=2).encode() + b"\n"


def expected_files(run: RunDir, folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "adapter_config.json" in files:
        files["adapter_config.json"] = pushed_adapter_config(folder)
    return {**files, "README.md": run.card.read_bytes()}


def assert_repository_equals(hub: LoopbackHub, repo_id: str, run: RunDir, folder: Path, revision: str = "main") -> None:
    """The branch contains the bytes of the folder and the card, and no other file."""
    files = hub.repos[repo_id].files(revision)
    files.pop(".gitattributes")
    assert files == expected_files(run, folder)


def make_sharded_run(tmp_path: Path, base: Path) -> RunDir:
    """A run with a merged model of several files."""
    run = make_run(tmp_path / "sharded", base)
    merge(MergeRequest(run.root, max_shard_size="100KB"))
    assert len(list(run.merged.glob("*.safetensors"))) >= 3
    return run


def make_gated_run(folder: Path, base: Path) -> RunDir:
    """A finished full run whose base is gated on the hub."""
    run = make_run(folder / "gated", base, full=True)
    plan = run.read_plan()
    on_hub = plan.model.model_copy(update={"model_name_or_path": "big/base"})
    run.plan.write_text(plan.model_copy(update={"model": on_hub}).to_json())
    return run
