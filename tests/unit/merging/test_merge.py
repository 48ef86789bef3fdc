"""Merged models: logits, dtype, tied heads and files beside the weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.json_lines import write_json_lines
from support.tiny_run import EIGHT_BIT, FOUR_BIT, leftovers, make_run, saved_logits, unmerged_logits
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from orpo_cli.merging.merge import merge
from orpo_cli.merging.merge_record import FILE_NAME
from orpo_cli.merging.merge_target import MergeRequest
from orpo_cli.planning.plan import DatasetPlan, MergePlan, ModelPlan
from orpo_cli.recipe.schema import Source

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
    write_json_lines(tmp_path / "pairs.jsonl", rows)
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
