"""Failed, interrupted and killed merges: the output is absent, or complete and verified."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forks import wait
from support.tiny_run import fork_merge, leftovers, make_base, make_run, saved_logits, unmerged_logits

from orpo_cli.atomic import atomic_directory
from orpo_cli.errors import RunError, UsageError
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import FILE_NAME, MergeRecord
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


@pytest.mark.parametrize("before", ["nothing", "a merge"])
def test_a_killed_merge_is_absent_or_complete(tmp_path, before):
    run = make_run(tmp_path / "run", make_base(tmp_path / "base"))
    expected, seed = unmerged_logits(run), random.Random(0)
    if before == "a merge":
        merge(MergeRequest(run.root))
    began = time.monotonic()
    assert wait(fork_merge(run, dtype="float32", overwrite=True, memory="1MB")) == 0
    seconds = time.monotonic() - began
    assert run.merged.is_dir()
    finished = 0
    for number in range(10):
        if before == "nothing" and run.merged.exists():
            run.merged.rename(tmp_path / f"merged-{number}")
        process = fork_merge(run, dtype="bfloat16" if number % 2 else "float32", overwrite=True, memory="1MB")
        time.sleep(seed.uniform(0, 1.1 * seconds))
        os.kill(process, signal.SIGKILL)
        finished += wait(process) == 0
        if run.merged.exists():
            record = MergeRecord.read(run.merged)
            assert record is not None
            assert record.is_usable  # 1MB is too little to compare logits
            assert record.is_complete(run.merged)
            limit = 1e-4 if record.dtype == "float32" else 0.2
            assert (saved_logits(run.merged) - expected).abs().max() <= limit
    assert finished < 10  # some were killed
    merge(MergeRequest(run.root, dtype="float32", overwrite=True))
    assert leftovers(run.root) == []


def test_the_replaced_folder_is_restored_after_a_kill_between_the_two_renames(tmp_path):
    target = tmp_path / "merged"
    old = tmp_path / f".merged.partial-{2**22 + 1}.replaced"
    old.mkdir()
    (old / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_directory(target):
        raise ZeroDivisionError
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
