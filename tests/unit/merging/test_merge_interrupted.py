"""Failed and interrupted merges leave no output and no temporary files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forks import wait
from support.tiny_run import (
    fork_merge,
    leftovers,
)

from orpo_cli.errors import RunError, UsageError
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import FILE_NAME
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.rundir import RunDir


def test_an_adapter_with_nan_fails_and_leaves_no_files(run):
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(RunError):
        merge(MergeRequest(run.root))
    assert not run.merged.exists()
    assert leftovers(run.root) == []


def test_a_tensor_that_changed_on_disk_is_reported(run, monkeypatch):
    """The writer writes zeros instead of one matrix."""
    from orpo_cli.merging.tensor_files import SafetensorsWriter

    write = SafetensorsWriter.write

    def damaging(self, name, tensor):
        write(self, name, torch.zeros_like(tensor) if name == "model.layers.0.mlp.up_proj.weight" else tensor)

    monkeypatch.setattr(SafetensorsWriter, "write", damaging)
    with pytest.raises(RunError, match="saved model differs from what was written"):
        merge(MergeRequest(run.root))
    assert not run.merged.exists()
    assert "up_proj" in json.loads((run.root / "merged.unverified" / FILE_NAME).read_text())["problem"]
    assert leftovers(run.root) == []


def wait_for_partial(run: RunDir, process: int) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        for path in run.root.glob(f".merged.partial-{process}"):
            return path
        time.sleep(0.002)
    pytest.fail("the merge did not start")


def stopped_merge(run: RunDir) -> tuple[int, Path]:
    """A merge in another process, stopped while it writes. It takes milliseconds, so that one may end before the signal."""
    for _ in range(10):
        process = fork_merge(run)
        partial = wait_for_partial(run, process)
        os.kill(process, signal.SIGSTOP)
        os.waitid(os.P_PID, process, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if partial.exists():
            return process, partial
        os.kill(process, signal.SIGCONT)
        assert wait(process) == 0
        shutil.rmtree(run.merged)
    pytest.fail("every merge ended before it could be stopped")


def test_a_killed_merge_leaves_no_output_and_the_next_merge_cleans_up(run):
    process, partial = stopped_merge(run)
    os.kill(process, signal.SIGKILL)
    assert wait(process) == -signal.SIGKILL
    assert not run.merged.exists()
    assert partial.exists()
    merge(MergeRequest(run.root))
    assert leftovers(run.root) == []
    assert run.merged.is_dir()


def test_an_interrupted_merge_leaves_no_files(run):
    process, _ = stopped_merge(run)
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGCONT)
    assert wait(process) == 130
    assert not run.merged.exists()
    assert leftovers(run.root) == []


def test_a_second_merge_into_the_same_output_is_refused_while_the_first_runs(run):
    process, partial = stopped_merge(run)
    try:
        with pytest.raises(UsageError, match=f"process {process} is writing"):
            merge(MergeRequest(run.root))
        assert partial.exists()
    finally:
        os.kill(process, signal.SIGCONT)
        status = wait(process)
    assert status == 0
    assert merge(MergeRequest(run.root)).already_merged
