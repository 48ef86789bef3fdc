"""SIGKILL during a merge: the output is absent, or complete and verified."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from support.forks import wait
from support.tiny_run import fork_merge, leftovers, make_base, make_run, saved_logits, unmerged_logits

from orpo_cli.atomic import atomic_directory
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import MergeRecord
from orpo_cli.merging.merge_target import MergeRequest


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
