"""Verification of merges: repeated once after a failure; a merge that fails twice is kept under another name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_run import leftovers

from orpo_cli.errors import RunError, UsageError
from orpo_cli.merging import compare_models, verification
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import FILE_NAME, MergeRecord
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.merging.sharded_merge import ShardedMerge

CHANGED = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def merging_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one matrix of every merge wrong, in the file and in its digest."""
    tensors = ShardedMerge.merged_tensors

    def wrong(self):
        for name, tensor in tensors(self):
            yield name, tensor * 1.5 if name == CHANGED else tensor

    monkeypatch.setattr(ShardedMerge, "merged_tensors", wrong)


@pytest.fixture
def differing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change one logit of the first model that is computed."""
    logits_of, calls = compare_models.compute_logits, []

    def differing(model, prompts):
        logits = logits_of(model, prompts)
        if not calls:
            logits[2] = logits[2].clone()
            logits[2][4, 7] += 10
        calls.append(model)
        return logits

    monkeypatch.setattr(compare_models, "compute_logits", differing)


def test_a_wrong_merge_is_kept_under_another_name_with_prompt_and_position(run, merging_wrong):
    with pytest.raises(RunError) as caught:
        merge(MergeRequest(run.root))
    kept = run.root / "merged.unverified"
    assert str(kept) in caught.value.remedy
    assert not run.merged.exists()
    record = MergeRecord.read(kept)
    assert (record.verified, record.verification) == (False, "logits")
    assert record.is_complete(kept)
    largest = record.checks["stored"]["largest"]
    assert abs(largest["found"] - largest["reference"]) == pytest.approx(record.max_logit_difference)
    assert f"position {largest['position']} of prompt {largest['prompt']}" in caught.value.message
    assert f"{largest['found']:.7g} instead of {largest['reference']:.7g}" in caught.value.message
    assert record.problem in caught.value.message
    assert record.first_verification["checks"] == record.checks  # computed twice, the same both times
    assert leftovers(run.root) == []


def test_kept_merges_are_not_overwritten_and_not_used(run, merging_wrong):
    with pytest.raises(RunError):
        merge(MergeRequest(run.root))
    first = (run.root / "merged.unverified" / FILE_NAME).read_bytes()
    with pytest.raises(RunError, match="twice") as caught:
        merge(MergeRequest(run.root))
    assert "merged.unverified-2" in caught.value.remedy
    assert (run.root / "merged.unverified" / FILE_NAME).read_bytes() == first
    (run.root / "merged.unverified-2").rename(run.merged)
    with pytest.raises(UsageError, match="failed its verification"):
        merge(MergeRequest(run.root))


def test_an_existing_merge_remains_if_the_next_one_fails(run, request):
    before = (merge(MergeRequest(run.root)).output / "model.safetensors").read_bytes()
    request.getfixturevalue("merging_wrong")
    with pytest.raises(RunError):
        merge(MergeRequest(run.root, dtype="bfloat16", overwrite=True))
    assert (run.merged / "model.safetensors").read_bytes() == before
    assert MergeRecord.read(run.merged).verified


def test_a_file_that_changes_between_write_and_comparison_fails_both_checks(run, monkeypatch):
    read_back = verification.verify_digests

    def changing(folder, digests):
        read_back(folder, digests)
        path = folder / "model.safetensors"
        weights = load_file(path)
        save_file({**weights, CHANGED: torch.zeros_like(weights[CHANGED])}, path, metadata={"format": "pt"})

    monkeypatch.setattr(verification, "verify_digests", changing)
    with pytest.raises(RunError, match="differs from what was written") as caught:
        merge(MergeRequest(run.root))
    assert CHANGED in caught.value.message
    record = MergeRecord.read(run.root / "merged.unverified")
    assert "position" in record.first_verification["problem"]
    assert record.first_verification["checks"]["stored"]["largest"]["prompt"] >= 1


def test_a_comparison_that_fails_once_is_repeated_and_reported(run, differing_once):
    notes = []
    result = merge(MergeRequest(run.root), note=notes.append)
    record = MergeRecord.read(run.merged)
    assert record.verified
    assert record.problem is None
    assert record.checks["stored"]["max_absolute"] <= 1e-3
    largest = record.first_verification["checks"]["stored"]["largest"]
    assert (largest["prompt"], largest["position"], largest["token"]) == (3, 5, 7)
    assert largest["reference"] - largest["found"] == pytest.approx(10, abs=1e-3)
    assert any("repeated" in note and "position 5 of prompt 3" in note for note in notes)
    assert result.as_dict()["first_verification"] == record.first_verification
    assert not (run.root / "merged.unverified").exists()


def test_the_command_warns_of_a_first_failure_and_exits_5_after_the_second(run, orpo_here, request):
    request.getfixturevalue("differing_once")
    once = orpo_here("merge", str(run.root), "--quiet")
    assert once.returncode == 0
    assert "warning: the first verification failed" in once.stderr
    assert "position 5 of prompt 3" in once.stderr
    again = orpo_here("merge", str(run.root), "--quiet")
    assert (again.returncode, again.stderr) == (0, "")
    request.getfixturevalue("merging_wrong")
    wrong = orpo_here("merge", str(run.root), "--overwrite", "--json")
    assert wrong.returncode == 5
    assert "merged.unverified" in json.loads(wrong.stdout)["remedy"]


def test_the_repetition_compares_logits_even_if_less_memory_is_free_by_then(run, merging_wrong, monkeypatch):
    answers = iter(["float32", None])
    monkeypatch.setattr(verification, "choose_compute_dtype", lambda *_, **__: next(answers))
    with pytest.raises(RunError, match="logits differ"):
        merge(MergeRequest(run.root))
    record = json.loads((run.root / "merged.unverified" / FILE_NAME).read_text())
    assert (record["verified"], record["verification"]) == (False, "logits")
