"""ms-swift: commands and configurations with ``rlhf_type: orpo``, as version 4 reads them, and names of version 2."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared_settings import (
    BUILT_IN,
    DROPOUT_IGNORED,
    IS_ORPO,
    TOKENIZER_TEMPLATE,
    add_prompt_length,
    keep_adapter_type,
    keep_attention,
    keep_bnb_quantization,
    source_paths,
)
from orpo_cli.recipe.convert.training_args import add_defaults, convert_remaining

TOOL = "ms-swift"
RECIPE_PATHS = {
    "model": "model.model_name_or_path",
    "model_id_or_path": "model.model_name_or_path",  # this and the next two: version 2
    "batch_size": "training.per_device_train_batch_size",
    "eval_batch_size": "training.per_device_eval_batch_size",
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
    "target_modules": "lora.target_modules",
    "init_weights": "lora.init_lora_weights",
    "modules_to_save": "lora.modules_to_save",
    "target_parameters": "lora.target_parameters",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "lorap_lr_ratio": "lora.loraplus_lr_ratio",
}
BNB_KEYS = {
    name: name
    for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage")
}
LORA_DEFAULTS = {"lora.r": 8, "lora.lora_alpha": 32, "lora.target_modules": "all-linear"}
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
    "ms-swift uses it only for other methods than ORPO.": "label_smoothing rpo_alpha ld_alpha discopop_tau loss_type "
    "loss_weights cpo_alpha simpo_gamma desirable_weight undesirable_weight center_rewards_coefficient sft_alpha lmbda "
    "seq_kd ref_model ref_adapters max_completion_length num_generations reward_funcs",
    "ms-swift uses it only for generation, not for training.": "max_new_tokens temperature top_k top_p "
    "repetition_penalty num_beams stream stop_words logprobs top_logprobs",
}
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The model's config.json determines the class.": "model_type task_type experts_impl",
    "orpo-cli prepares and caches the pairs.": "dataset_num_proc load_from_cache_file streaming "
    "shuffle_buffer_size download_mode lazy_tokenize cached_dataset cached_val_dataset val_dataset_shuffle dataset_shuffle strict "
    "disable_auto_column_mapping custom_dataset_info custom_register_path external_plugins packing packing_length "
    "packing_num_proc packing_strategy padding_free",
    "System messages come from the data and are rendered by the chat template.": "system agent_template response_prefix "
    "enable_thinking preserve_thinking use_chat_template template_backend",
    "orpo-cli trains text models only.": "freeze_vit freeze_aligner freeze_llm max_pixels norm_bbox vit_lr aligner_lr "
    "vit_gradient_checkpointing",
    "Training starts from the base model. Merge an adapter first (`orpo merge`).": "adapters resume_only_model",
    "Models and data always come from the Hugging Face hub.": "use_hf",
    "Set the environment variables of the tracker.": "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name "
    "swanlab_mode",
    "Balance the sources with max_samples or weight of each source.": "interleave_prob stopping_strategy",
    "Use `model.rope_scaling`, whose factor does not depend on other settings.": "rope_scaling",
    "It has no equivalent here.": "model_name model_author model_kwargs max_model_len "
    "loss_scale sequence_parallel_size acc_strategy early_stop_interval create_checkpoint_symlink add_version "
    "check_model use_logits_to_keep tuner_backend zero_hpz_partition_size deepspeed_autotp_size load_args "
    "ignore_args_error hqq_axis lora_dtype target_regex use_flash_ckpt",
}


def convert(draft: Draft) -> None:
    """Convert each key. Raises UsageError if the method is not ORPO."""
    method = draft.peek("rlhf_type")
    if method != "orpo":
        what = f"`rlhf_type: {method}`" if method else "no `rlhf_type`"
        raise UsageError(
            f"the ms-swift configuration is not for ORPO: it has {what}.",
            remedy="Only `rlhf_type: orpo` is converted.",
        )
    draft.settle("rlhf_type", "kept", None, IS_ORPO)
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    _model(draft)
    _adapter(draft)
    _data(draft)
    _lengths(draft)
    convert_remaining(draft, ignored=IGNORED_KEYS, unsupported=UNSUPPORTED_KEYS, defaults=DEFAULTS, tool=TOOL)
    _add_computed_defaults(draft)


def _model(draft: Draft) -> None:
    keep_attention(draft, "attn_impl", ATTENTION)
    draft.keep_if_true("use_flash_attn", "model.attn_implementation", "flash_attention_2")
    for key in ("template", "template_type"):
        if str(draft.peek(key)) in BUILT_IN:
            draft.keep(key, "model.chat_template")
        draft.leave_out(key, TOKENIZER_TEMPLATE)
    if draft.has("quantization_bit"):
        keep_bnb_quantization(draft, "quantization_bit", "quant_method", BNB_KEYS, default_method="bnb")
    keep_bnb_quantization(draft, "quant_bits", "quant_method", BNB_KEYS, default_method=None)


def _adapter(draft: Draft) -> None:
    names = ("tuner_type", "train_type", "sft_type")  # versions 4, 3 and 2
    key = next(filter(draft.has, names), names[0])
    if keep_adapter_type(draft, key, (*LORA_PATHS, "lora_target_modules", "lora_dropout", "lora_dropout_p")):
        for name, path in LORA_PATHS.items():
            draft.keep(name, path)
        targets = draft.peek("lora_target_modules")
        draft.keep(
            "lora_target_modules", "lora.target_modules", "all-linear" if targets in ("ALL", ["ALL"]) else targets
        )
        add_defaults(draft, LORA_DEFAULTS, TOOL)
        for name in ("lora_dropout", "lora_dropout_p"):
            draft.ignore(name, DROPOUT_IGNORED, "lora.lora_dropout")


def _data(draft: Draft) -> None:
    named = False
    for key, section in (("dataset", "dataset.train"), ("val_dataset", "dataset.eval")):
        value = draft.peek(key, [])
        sources = value if isinstance(value, list) else [value]
        paths = source_paths(section, len(sources))
        for path, source in zip(paths, sources, strict=True):
            named |= _source(draft, key, str(source), path)
        if paths:
            draft.settle(key, "kept", parse_path(f"{paths[0]}.path"))
    if named and draft.peek("use_hf") not in (True, 1):
        draft.remarks.append(
            "ms-swift loads data and model from ModelScope unless use_hf is on; in the recipe, the names are hub ids."
        )
    columns = draft.peek("columns")
    if isinstance(columns, dict) and parse_path("dataset.train.path") in draft.values:
        draft.keep("columns", "dataset.train.columns", {field: column for column, field in columns.items()})
    draft.leave_out("columns", "Columns are mapped separately for each source.")
    for key in ("split_dataset_ratio", "dataset_test_ratio"):
        if not draft.has_value("dataset.eval") and draft.peek(key):
            draft.keep(key, "dataset.eval.test_size")
        draft.leave_out(key, "val_dataset contains the held-out pairs.")


def _source(draft: Draft, key: str, name: str, path: str) -> bool:
    """Write one source, ``hf::id:subset#count``, at ``path``. Returns whether it is the name of a dataset on a hub."""
    parts = re.fullmatch(r"(?:(?:hf|ms|HF|MS)::)?(?P<path>[^#]*?)(?::(?P<name>[\w/.-]+))?(?:#(?P<count>\d+))?", name)
    if parts is None:
        draft.add(f"{path}.path", name, key)
        return False
    draft.add(f"{path}.path", parts["path"], key if parts["path"] == name else f"{key}: {name}")
    if parts["name"]:
        draft.add(f"{path}.name", parts["name"], f"the subset in {name}")
    if parts["count"]:
        draft.add(f"{path}.max_samples", int(parts["count"]), f"the number of rows in {name}")
    return not re.search(r"\.(jsonl?|csv|parquet|txt)$|^[./~]", parts["path"])


def _lengths(draft: Draft) -> None:
    draft.keep("max_length", "training.max_length")
    strategy = draft.peek("truncation_strategy", "delete")
    if strategy == "delete":
        draft.keep("truncation_strategy", "dataset.drop_truncated", True)
        draft.add("dataset.drop_truncated", True, "ms-swift drops pairs that are longer than max_length")
        add_prompt_length(draft, draft.value("training.max_length"), "ms-swift then never truncates a prompt")
    elif strategy in ("left", "right"):
        mode = "keep_end" if strategy == "left" else "keep_start"
        draft.keep("truncation_strategy", "dataset.truncation_mode", mode, "which end of a prompt is kept")
    draft.leave_out("truncation_strategy", "Prompts and completions have separate length limits.")


def _add_computed_defaults(draft: Draft) -> None:
    """Add the defaults that depend on other settings."""
    draft.add("training.learning_rate", 1e-4 if draft.has_value("lora") else 1e-5, f"the default of {TOOL}")
    batch = draft.value("training.per_device_train_batch_size")
    if isinstance(batch, int) and batch > 0 and "gradient_accumulation_steps" not in draft.outcomes:
        note = f"the default of {TOOL}: 16 pairs a step, on one device"
        draft.add("training.gradient_accumulation_steps", max(1, -(-16 // batch)), note)
    if draft.has_value("dataset.eval"):
        strategy = draft.value("training.save_strategy", "steps")
        draft.add("training.eval_strategy", strategy, f"the default of {TOOL}")
        if draft.value("training.eval_strategy") == "steps":
            add_defaults(draft, {"training.eval_steps": draft.value("training.save_steps", 500)}, f"{TOOL}: save_steps")
