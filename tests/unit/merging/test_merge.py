"""Merges of real adapters into tiny models: results, refused requests, failures and interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forks import wait
from support.tiny_run import (
    EIGHT_BIT,
    FOUR_BIT,
    fork_merge,
    make_base,
    make_run,
    save_adapter,
    saved_logits,
    unmerged_logits,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from orpo_cli.card.model_card import render_card
from orpo_cli.card.run_contents import select_parts
from orpo_cli.errors import MachineError, RunError, UsageError
from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import FILE_NAME
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.planning.plan import DatasetPlan, MergePlan, ModelPlan
from orpo_cli.recipe.schema import Source
from orpo_cli.rundir import RunDir


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture
def run(tmp_path: Path, base: Path) -> RunDir:
    return make_run(tmp_path / "run", base)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


VARIANTS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 32}},
    "one layer": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("peft", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_merged_model_has_the_logits_of_the_unmerged_model(tmp_path, base, tied_base, tied, peft):
    run = make_run(tmp_path / "run", tied_base if tied else base, peft=peft)
    expected = unmerged_logits(run)
    before = saved_logits(tied_base if tied else base)
    result = merge(MergeRequest(run.root))
    found = saved_logits(result.output)
    assert (expected - before).abs().max() > 0.1  # the adapter changes the logits
    assert (found - expected).abs().max() <= 1e-4
    assert result.record.verified
    assert result.record.max_logit_difference <= 1e-4
    assert leftovers(run.root) == []


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_layer_saved_in_full_is_merged_into_an_untied_model(tmp_path, base, module):
    run = make_run(tmp_path / "run", base, peft={"modules_to_save": [module]})
    expected = unmerged_logits(run)
    assert (saved_logits(merge(MergeRequest(run.root)).output) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("quantization", [FOUR_BIT, EIGHT_BIT], ids=["4bit", "8bit"])
def test_a_quantized_run_merges_into_the_dequantized_weights_of_training(tmp_path, base, quantization):
    run = make_run(tmp_path / "run", base, quantization=quantization)
    expected = unmerged_logits(run)
    result = merge(MergeRequest(run.root))
    found = saved_logits(result.output)
    assert (found - expected).abs().max() <= 1e-3
    assert result.record.checks["stored"]["max_absolute"] <= 1e-3
    assert (saved_logits(base) - expected).abs().max() > 0.1
    # merged into the original base, as other tools do, the logits are different
    shutil.copytree(base, tmp_path / "original")
    unquantized = make_run(tmp_path / "unquantized", base)
    shutil.rmtree(unquantized.adapter)
    shutil.copytree(run.adapter, unquantized.adapter)
    assert (unmerged_logits(unquantized) - expected).abs().max() > 2e-2
    weights = load_file(result.output / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "quantization_config" not in json.loads((result.output / "config.json").read_text())


@pytest.mark.parametrize("quantization", [FOUR_BIT, EIGHT_BIT], ids=["4bit", "8bit"])
def test_a_quantized_base_computing_in_sixteen_bits_is_compared_in_float32(tmp_path, base, quantization):
    section = ModelPlan(model_name_or_path=str(base), dtype="bfloat16", attn_implementation="sdpa")
    coarse = quantization.model_copy(update={"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_use_double_quant": True})
    run = make_run(tmp_path / "run", base, model=section, quantization=coarse)
    expected = unmerged_logits(run)  # computed in bfloat16
    result = merge(MergeRequest(run.root))
    assert result.record.dtype == "bfloat16"
    assert 0 < result.record.checks["stored"]["relative"] < 0.05  # one rounding of the weights
    exact = merge(MergeRequest(run.root, tmp_path / "exact", dtype="float32"))
    assert exact.record.checks["stored"]["max_absolute"] <= 1e-3
    assert (saved_logits(result.output) - expected).square().mean().sqrt() / expected.std() < 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_merges_are_one_rounding_away_from_the_float32_merge(tmp_path, run, dtype):
    exact = load_file(merge(MergeRequest(run.root)).output / "model.safetensors")
    result = merge(MergeRequest(run.root, tmp_path / "half", dtype=dtype))
    stored = load_file(result.output / "model.safetensors")
    for name, tensor in exact.items():
        assert torch.equal(stored[name], tensor.to(getattr(torch, dtype))), name
    assert AutoConfig.from_pretrained(result.output).dtype == getattr(torch, dtype)
    assert result.record.checks["stored"]["relative"] > 0


def test_the_dtype_of_the_plan_is_the_default(tmp_path, base):
    run = make_run(tmp_path / "run", base, merge=MergePlan(dtype="bfloat16", max_shard_size="50KB"))
    output = merge(MergeRequest(run.root)).output
    assert AutoConfig.from_pretrained(output).dtype == torch.bfloat16
    assert len(list(output.glob("model-*.safetensors"))) > 1


def test_the_merged_folder_has_all_end_tokens_and_the_chat_template(run):
    output = merge(MergeRequest(run.root)).output
    tokenizer = AutoTokenizer.from_pretrained(output)
    eos_token_ids = GenerationConfig.from_pretrained(output).eos_token_id
    assert set(tokenizer.convert_ids_to_tokens(eos_token_ids)) == {"<|endoftext|>", "<|im_end|>"}
    assert "<|im_start|>" in tokenizer.chat_template
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", FILE_NAME} <= names
    assert (output / "model.safetensors").stat().st_mode == (output / "config.json").stat().st_mode


def test_prompts_of_the_run_are_compared_if_their_file_exists(tmp_path, base):
    rows = [{"prompt": f"Question {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = DatasetPlan(train=[Source(path=str(tmp_path / "pairs.jsonl"))], max_prompt_length=64)
    record = merge(MergeRequest(make_run(tmp_path / "run", base, dataset=dataset).root)).record
    assert record.prompts == {"built_in": 8, "from_run": 4}
    assert (
        "Question" not in (tmp_path / "run" / "merged" / FILE_NAME).read_text()
    )  # merge.json is published with the model


def test_a_base_with_invalid_generation_settings_is_merged(tmp_path, base):
    odd = shutil.copytree(base, tmp_path / "odd")
    settings = json.loads((odd / "generation_config.json").read_text())
    (odd / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.6, "do_sample": False}))
    run = make_run(tmp_path / "run", odd)
    stored = GenerationConfig.from_pretrained(merge(MergeRequest(run.root)).output)
    assert (stored.temperature, stored.do_sample) == (0.6, True)


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
    with pytest.raises(UsageError, match="another merge") as error:
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


@pytest.mark.parametrize(
    ("peft", "stays_tied"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"trainable_token_indices": [3, 5]}, True),
    ],
    ids=["lora head", "lora embedding", "lora both", "full head", "full embedding", "full both", "tokens"],
)
def test_a_tied_head_is_saved_separately_if_the_adapter_changes_it(tmp_path, tied_base, peft, stays_tied):
    run = make_run(tmp_path / "run", tied_base, peft=peft)
    expected = unmerged_logits(run)
    result = merge(MergeRequest(run.root))
    assert (saved_logits(result.output) - expected).abs().max() <= 1e-4
    assert result.record.untied == ([] if stays_tied else ["lm_head.weight"])
    assert AutoConfig.from_pretrained(result.output).tie_word_embeddings == stays_tied
    assert ("lm_head.weight" in load_file(result.output / "model.safetensors")) != stays_tied


def test_lora_on_an_untied_head_is_merged(tmp_path, base):
    run = make_run(tmp_path / "run", base, peft={"target_modules": ["q_proj", "lm_head", "embed_tokens"]})
    expected = unmerged_logits(run)
    assert (saved_logits(merge(MergeRequest(run.root)).output) - expected).abs().max() <= 1e-4


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
    assert result.summary_lines()[0].startswith(
        "merged in 0 s; tensors only: 21 tensors read back are equal; logits were not compared"
    )
    assert "verified" not in result.summary_lines()[0]
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
