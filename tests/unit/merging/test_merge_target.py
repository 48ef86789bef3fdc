"""Inputs and outputs of a merge: bare adapters, checkpoints, full runs, and folders that already exist."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_run import FOUR_BIT, leftovers, make_run, save_adapter, saved_logits, unmerged_logits
from transformers import AutoModelForCausalLM

from orpo_cli.errors import UsageError
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_target import MergeRequest


def test_a_second_merge_is_unchanged_and_writes_nothing(run):
    first = merge(MergeRequest(run.root))
    before = (first.output / "model.safetensors").stat()
    second = merge(MergeRequest(run.root))
    assert second.already_merged
    assert second.as_dict()["status"] == "unchanged"
    assert (first.output / "model.safetensors").stat() == before


@pytest.mark.parametrize("change", ["adapter", "dtype", "damage"])
def test_an_output_of_another_merge_is_kept_unless_overwritten(run, change):
    output = merge(MergeRequest(run.root)).output
    if change == "adapter":
        path = run.adapter / "adapter_model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    if change == "damage":
        (output / "tokenizer.json").unlink()
    dtype = "bfloat16" if change == "dtype" else None
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"a merge of another adapter|another merge") as error:
        merge(MergeRequest(run.root, dtype=dtype))
    assert "--overwrite" in (error.value.remedy or "")
    assert (output / "model.safetensors").read_bytes() == before
    assert not merge(MergeRequest(run.root, dtype=dtype, overwrite=True)).already_merged
    assert merge(MergeRequest(run.root, dtype=dtype)).already_merged
    assert leftovers(run.root) == []


def test_a_folder_without_a_merge_is_never_overwritten(tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"precious")
    with pytest.raises(UsageError, match="no merged model"):
        merge(MergeRequest(run.root, photos, overwrite=True))
    assert (photos / "one.jpg").read_bytes() == b"precious"


def test_a_bare_adapter_merges_into_the_named_or_the_given_base(tmp_path, base):
    adapter = tmp_path / "adapter"
    save_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)
    with pytest.raises(UsageError, match="outside of a run"):
        merge(MergeRequest(adapter))
    named = merge(MergeRequest(adapter, tmp_path / "named"))
    moved = shutil.copytree(base, tmp_path / "elsewhere")
    given = merge(MergeRequest(adapter, tmp_path / "given", base=str(moved)))
    assert torch.equal(saved_logits(named.output), saved_logits(given.output))
    assert (saved_logits(named.output) - saved_logits(base)).abs().max() > 0.1


def test_a_base_in_float64_is_merged_in_float32(tmp_path, base):
    moved = shutil.copytree(base, tmp_path / "base")
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "dtype": "float64"}))
    save_adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged = merge(MergeRequest(tmp_path / "adapter", tmp_path / "merged", base=str(moved)))
    assert json.loads((merged.output / "config.json").read_text())["dtype"] == "float32"


def test_a_bare_adapter_with_a_missing_base_shows_how_to_give_it(tmp_path, base):
    adapter = tmp_path / "adapter"
    save_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "/home/somebody/models/base"}))
    with pytest.raises(UsageError, match="/home/somebody/models/base") as error:
        merge(MergeRequest(adapter, tmp_path / "out"))
    assert "--base" in (error.value.remedy or "")


def test_a_checkpoint_of_a_run_is_merged_with_the_plan_of_its_run(tmp_path, base):
    run = make_run(tmp_path / "run", base, quantization=FOUR_BIT)
    checkpoint = shutil.copytree(run.adapter, run.checkpoints / "checkpoint-2")
    with pytest.raises(UsageError, match="is a checkpoint"):
        merge(MergeRequest(checkpoint))
    expected = unmerged_logits(run)
    assert (saved_logits(merge(MergeRequest(checkpoint, tmp_path / "out")).output) - expected).abs().max() <= 1e-3


def test_an_adapter_of_another_architecture_is_refused(tmp_path, base):
    adapter = tmp_path / "adapter"
    save_adapter(AutoModelForCausalLM.from_pretrained(base), adapter)
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace("layers.1.", "layers.7."): each for name, each in weights.items()}, path)
    with pytest.raises(UsageError, match="does not fit"):
        merge(MergeRequest(adapter, tmp_path / "out"))
    save_file({name: each.repeat(2, 2) for name, each in weights.items()}, path)
    with pytest.raises(UsageError, match="does not fit"):
        merge(MergeRequest(adapter, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_full_runs_have_nothing_to_merge(tmp_path, base):
    run = make_run(tmp_path / "run", base, full=True)
    with pytest.raises(UsageError, match="nothing to merge") as error:
        merge(MergeRequest(run.root))
    assert str(run.model) in (error.value.remedy or "")


@pytest.mark.parametrize("target", ["missing", "empty", "model"])
def test_a_folder_that_is_neither_run_nor_adapter_is_refused(tmp_path, base, target):
    (tmp_path / "empty").mkdir()
    path = base if target == "model" else tmp_path / target
    with pytest.raises(UsageError):
        merge(MergeRequest(path, tmp_path / "out"))


def test_an_unknown_dtype_is_refused(run):
    with pytest.raises(UsageError, match="int8"):
        merge(MergeRequest(run.root, dtype="int8"))
