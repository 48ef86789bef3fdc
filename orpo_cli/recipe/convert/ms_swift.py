"""An ms-swift command or configuration (``rlhf_type: orpo``) as a recipe. Facts about ms-swift are those of version 4."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared import BUILT_IN, DROPOUT_IGNORED, add_prompt_length
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args, ignore_all, leave_out_all

TOOL = "ms-swift"
RECIPE_PATHS = {
    "model": "model.model_name_or_path",
    "model_revision": "model.model_revision",
    "torch_dtype": "model.dtype",
    "device_map": "model.device_map",
    "max_memory": "model.max_memory",
    "data_seed": "dataset.shuffle_seed",
    "new_special_tokens": "model.add_special_tokens",
}
LORA_PATHS = {
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_bias": "lora.bias",
    "modules_to_save": "lora.modules_to_save",
    "target_parameters": "lora.target_parameters",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "lorap_lr_ratio": "lora.loraplus_lr_ratio",
}
DEFAULTS = {
    "training.num_train_epochs": 3.0,
    "training.per_device_train_batch_size": 1,
    "training.lr_scheduler_type": "cosine",
    "training.warmup_steps": 0,
    "training.weight_decay": 0.1,
    "training.adam_beta2": 0.95,
    "training.beta": 0.1,
    "training.gradient_checkpointing": True,
}
ATTENTION = {
    "flash_attn": "flash_attention_2",
    "flash_attention_2": "flash_attention_2",
    "sdpa": "sdpa",
    "eager": "eager",
}
IGNORED_KEYS: Mapping[str, str] = {
    "ms-swift reads it for another method than ORPO.": "label_smoothing rpo_alpha ld_alpha discopop_tau loss_type "
    "loss_weights cpo_alpha simpo_gamma desirable_weight undesirable_weight center_rewards_coefficient sft_alpha lmbda "
    "seq_kd ref_model ref_adapters max_completion_length num_generations reward_funcs",
    "ms-swift reads it when it answers, not when it trains.": "max_new_tokens temperature top_k top_p "
    "repetition_penalty num_beams stream stop_words logprobs top_logprobs",
}
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The class is read from the model's own files.": "model_type task_type experts_impl",
    "The pairs are prepared by this tool, and kept prepared.": "dataset_num_proc load_from_cache_file streaming "
    "shuffle_buffer_size download_mode lazy_tokenize cached_dataset cached_val_dataset val_dataset_shuffle dataset_shuffle strict "
    "disable_auto_column_mapping custom_dataset_info custom_register_path external_plugins packing packing_length "
    "packing_num_proc packing_strategy padding_free",
    "System messages are those of the data, rendered by the chat template.": "system agent_template response_prefix "
    "enable_thinking preserve_thinking use_chat_template template_backend",
    "ORPO trains text models here.": "freeze_vit freeze_aligner freeze_llm max_pixels norm_bbox vit_lr aligner_lr "
    "vit_gradient_checkpointing",
    "Training goes on from the base model; an adapter is merged first (`orpo merge`).": "adapters resume_only_model",
    "It says where models and data come from; here that is the Hugging Face hub.": "use_hf",
    "Set the tracker's own environment variables.": "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name "
    "swanlab_mode",
    "Balance sources by max_samples, or weight, of each.": "interleave_prob stopping_strategy",
    "Write it as `model.rope_scaling`, whose factor does not depend on other settings.": "rope_scaling",
    "It has no equal here.": "model_name model_author model_kwargs max_model_len "
    "loss_scale sequence_parallel_size acc_strategy early_stop_interval create_checkpoint_symlink add_version "
    "check_model use_logits_to_keep tuner_backend zero_hpz_partition_size deepspeed_autotp_size load_args "
    "ignore_args_error hqq_axis lora_dtype target_regex use_flash_ckpt",
}


def convert(draft: Draft) -> None:
    """Deal with every key. Raises UsageError where the method is not ORPO."""
    method = draft.peek("rlhf_type", "dpo")
    if method != "orpo":
        raise UsageError(
            f"this ms-swift configuration has `rlhf_type: {method}`: not ORPO.",
            remedy="Only `rlhf_type: orpo` is converted.",
        )
    draft.settle("rlhf_type", "kept", None, "ORPO is what this tool does.")
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    _model(draft)
    _adapter(draft)
    _data(draft)
    _lengths(draft)
    ignore_all(draft, IGNORED_KEYS)
    leave_out_all(draft, UNSUPPORTED_KEYS)
    convert_training_args(draft)
    _defaults(draft)


def _model(draft: Draft) -> None:
    attention = str(draft.peek("attn_impl"))
    if attention in ATTENTION:
        draft.keep("attn_impl", "model.attn_implementation", ATTENTION[attention])
    draft.leave_out("attn_impl", "Attention is chosen for the machine, or by model.attn_implementation.")
    if str(draft.peek("template")) in BUILT_IN:
        draft.keep("template", "model.chat_template")
    draft.leave_out("template", "The tokenizer's own template is used; model.chat_template names another.")
    bits, method = draft.peek("quant_bits"), draft.peek("quant_method")
    if bits in (4, 8) and method == "bnb":
        draft.keep("quant_bits", f"quantization.load_in_{bits}bit", True)
        draft.join("quant_method", f"quantization.load_in_{bits}bit")
    if bits == 4 and parse_path("quantization.load_in_4bit") in draft.values:
        for name in (
            "bnb_4bit_compute_dtype",
            "bnb_4bit_quant_type",
            "bnb_4bit_use_double_quant",
            "bnb_4bit_quant_storage",
        ):
            draft.keep(name, f"quantization.{name}")
        draft.add("quantization.bnb_4bit_quant_type", "nf4", f"the default of {TOOL}")
        draft.add("quantization.bnb_4bit_use_double_quant", True, f"the default of {TOOL}")
    for key in ("quant_bits", "quant_method"):
        draft.leave_out(key, "bitsandbytes quantizes to 4 and 8 bits; there is no other method here.")
    for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"):
        draft.leave_out(key, "It does nothing without quant_bits: 4 and quant_method: bnb.")


def _adapter(draft: Draft) -> None:
    names = ("tuner_type", "train_type", "sft_type")  # of version 4, 3 and 2
    key = next((name for name in names if draft.has(name)), None)
    kind = draft.peek(key, "lora") if key else "lora"
    if kind != "lora":
        note = "Every weight is trained." if kind == "full" else f"There is no `{kind}` here: every weight is trained."
        draft.settle(str(key), "kept" if kind == "full" else "left-out", None, note)
        for name in (*LORA_PATHS, "lora_dropout", "target_modules", "init_weights"):
            draft.ignore(name, f"It does nothing with `{key}: {kind}`.")
        return
    if key:
        draft.settle(key, "kept", ("lora",), "the `lora` section")
    for name, path in LORA_PATHS.items():
        draft.keep(name, path)
    draft.keep("target_modules", "lora.target_modules")
    draft.keep("init_weights", "lora.init_lora_weights")
    draft.add("lora.r", 8, f"the default of {TOOL}")
    draft.add("lora.lora_alpha", 32, f"the default of {TOOL}")
    draft.add("lora.target_modules", "all-linear", f"the default of {TOOL}")
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")


def _data(draft: Draft) -> None:
    hub = draft.peek("use_hf") in (True, 1)
    named = False
    for key, path in (("dataset", "dataset.train"), ("val_dataset", "dataset.eval")):
        listed = draft.peek(key, [])
        sources = [str(each) for each in (listed if isinstance(listed, list) else [listed])]
        for index, source in enumerate(sources):
            named |= _source(draft, key, source, path if len(sources) == 1 else f"{path}.{index}")
        if sources:
            draft.settle(key, "kept", parse_path(f"{path}.path" if len(sources) == 1 else f"{path}.0.path"))
    if named and not hub:
        draft.remarks.append(
            "ms-swift takes data and model from ModelScope unless use_hf is on; here they are hub ids."
        )
    columns = draft.peek("columns")
    if isinstance(columns, dict) and parse_path("dataset.train.path") in draft.values:
        draft.keep("columns", "dataset.train.columns", {ours: theirs for theirs, ours in columns.items()})
    draft.leave_out("columns", "Columns are renamed for each source.")
    if not any(path[:2] == ("dataset", "eval") for path in draft.values) and draft.peek("split_dataset_ratio"):
        draft.keep("split_dataset_ratio", "dataset.eval.test_size")
    draft.leave_out("split_dataset_ratio", "val_dataset names the held-out pairs.")


def _source(draft: Draft, key: str, written: str, place: str) -> bool:
    """``hf::id:subset#count``; says whether it is a name on a hub."""
    parts = re.fullmatch(r"(?:(?:hf|ms|HF|MS)::)?(?P<path>[^#]*?)(?::(?P<name>[\w/.-]+))?(?:#(?P<count>\d+))?", written)
    if parts is None:
        draft.add(f"{place}.path", written, key)
        return False
    draft.add(f"{place}.path", parts["path"], key if parts["path"] == written else f"{key}: {written}")
    if parts["name"]:
        draft.add(f"{place}.name", parts["name"], f"the subset in {written}")
    if parts["count"]:
        draft.add(f"{place}.max_samples", int(parts["count"]), f"the count in {written}")
    return not re.search(r"\.(jsonl?|csv|parquet|txt)$|^[./~]", parts["path"])


def _lengths(draft: Draft) -> None:
    draft.keep("max_length", "training.max_length")
    length = draft.values.get(parse_path("training.max_length"))
    strategy = draft.peek("truncation_strategy", "delete")
    if strategy == "delete":
        draft.keep("truncation_strategy", "dataset.drop_truncated", True)
        draft.add("dataset.drop_truncated", True, "ms-swift leaves out pairs that are longer than max_length")
        add_prompt_length(draft, length, "ms-swift never cuts a prompt then")
    elif strategy in ("left", "right"):
        mode = "keep_end" if strategy == "left" else "keep_start"
        draft.keep("truncation_strategy", "dataset.truncation_mode", mode, "which end of a prompt is kept")
    draft.leave_out("truncation_strategy", "Prompts and answers are cut by their own limits.")


def _defaults(draft: Draft) -> None:
    lora = any(path[0] == "lora" for path in draft.values)
    draft.add("training.learning_rate", 1e-4 if lora else 1e-5, f"the default of {TOOL}")
    add_defaults(draft, DEFAULTS, TOOL)
    batch = draft.values.get(parse_path("training.per_device_train_batch_size"))
    if isinstance(batch, int) and batch > 0 and "gradient_accumulation_steps" not in draft.outcomes:
        note = f"the default of {TOOL}: 16 pairs a step, on one device"
        draft.add("training.gradient_accumulation_steps", max(1, -(-16 // batch)), note)
    if any(path[:2] == ("dataset", "eval") for path in draft.values):
        draft.add(
            "training.eval_strategy",
            draft.values.get(parse_path("training.save_strategy"), "steps"),
            f"the default of {TOOL}",
        )
