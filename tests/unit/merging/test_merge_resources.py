"""Memory and disk space of a merge: what is compared within them, and what happens without them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from support.tiny_run import saved_logits, unmerged_logits

from orpo_cli.card.model_card import render_card
from orpo_cli.card.run_contents import select_parts
from orpo_cli.errors import MachineError
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_target import MergeRequest


def test_missing_disk_space_is_reported_before_the_merge(run, monkeypatch):
    usage = shutil.disk_usage(run.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(MachineError, match="disk"):
        merge(MergeRequest(run.root))
    assert not run.merged.exists()


def test_a_model_larger_than_memory_is_verified_by_tensors_with_a_note(run):
    notes: list[str] = []
    expected = unmerged_logits(run)
    result = merge(MergeRequest(run.root, memory="1MB"), note=notes.append)
    assert (saved_logits(result.output) - expected).abs().max() <= 1e-4
    record = result.record
    assert (record.verified, record.verification, record.max_logit_difference) == (False, "tensors only", None)
    summary = result.summary_lines()[0]
    assert "; tensors only: 21 tensors read back are equal; logits were not compared" in summary
    assert "verified" not in summary
    assert "## Merge" in render_card(run, parts="merged")
    assert "Tensors only: 21 tensors" in render_card(run, parts="merged")
    assert select_parts(run, ["merged"]) == ("merged",)  # every check that was made has passed
    again = merge(MergeRequest(run.root))
    assert again.already_merged
    assert "tensors only" in again.summary_lines()[0]
    assert record.tensors["max_output_difference"] < 1e-4
    assert any("logits, answers and held-out pairs are not compared" in note and "--memory" in note for note in notes)


def test_the_default_memory_is_what_is_free_within_the_limit_of_the_container(run, tmp_path, monkeypatch):
    from orpo_cli import machine

    group = tmp_path / "memory"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("500000000\n")
    (group / "memory.usage_in_bytes").write_text("450000000\n")
    monkeypatch.setattr(machine, "CGROUP_ROOT", tmp_path)
    assert machine.available_ram_bytes() == 50_000_000
    assert merge(MergeRequest(run.root)).record.verified  # 0.4 MB
    (group / "memory.usage_in_bytes").write_text("499999999\n")
    record = merge(MergeRequest(run.root, overwrite=True)).record
    assert (record.verified, record.verification) == (False, "tensors only")
    assert "0.0 GB are free" in (record.not_compared or "")
    (group / "memory.stat").write_text("total_cache 500\ntotal_inactive_file 20000000\ntotal_active_file 10000000\n")
    assert machine.available_ram_bytes() == 30_000_001  # the kernel frees cached files on demand


def test_a_model_that_fits_only_in_the_merged_dtype_is_compared_in_it(run, monkeypatch):
    import psutil

    from orpo_cli.merging import verification as module
    from orpo_cli.verify.resources import choose_compute_dtype

    memory = psutil.virtual_memory()
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=3000))
        found = [choose_compute_dtype(1000, "bfloat16", limit=2**60, other_bytes=other) for other in (0, 900)]
    assert found == ["bfloat16", None]  # 4400 and 2200 bytes
    notes: list[str] = []
    monkeypatch.setattr(module, "choose_compute_dtype", lambda *_, **__: "bfloat16")
    result = merge(MergeRequest(run.root, dtype="bfloat16"), note=notes.append)
    assert result.record.computed_in == "bfloat16"
    assert any("memory" in note for note in notes)


def test_a_disk_that_fills_up_leaves_no_files(run, monkeypatch, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        usage = shutil.disk_usage(run.root)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)  # the check before the merge passes
        with pytest.raises(MachineError, match="cannot write"):
            merge(MergeRequest(run.root, small / "merged"))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
