"""LLaMA-Factory: configurations with ``pref_loss: orpo`` or, in earlier versions, ``stage: orpo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.llama_factory.datasets import keep_datasets
from orpo_cli.recipe.convert.llama_factory.unsupported_keys import IGNORED_KEYS, UNSUPPORTED_KEYS
from orpo_cli.recipe.convert.shared_settings import (
    BUILT_IN,
    DROPOUT_IGNORED,
    IS_ORPO,
    TOKENIZER_TEMPLATE,
    add_no_evaluation,
    keep_adapter_type,
    keep_attention,
    keep_bnb_quantization,
    keep_use_reentrant,
    split_names,
)
from orpo_cli.recipe.convert.training_args import add_defaults, convert_remaining

TOOL = "llama-factory"
RECIPE_PATHS = {
    "model_name_or_path": "model.model_name_or_path",
    "model_revision": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code",
    "device_map": "model.device_map",
    "cutoff_len": "training.max_length",
}
LORA_PATHS = {
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "additional_target": "lora.modules_to_save",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "loraplus_lr_ratio": "lora.loraplus_lr_ratio",
    "loraplus_lr_embedding": "lora.loraplus_lr_embedding",
}
BNB_KEYS = {"quantization_type": "bnb_4bit_quant_type", "double_quantization": "bnb_4bit_use_double_quant"}
PISSA_KEYS = ("pissa_init", "pissa_iter", "pissa_convert")
DEFAULTS = {
    "training.learning_rate": 5e-5,
    "training.num_train_epochs": 3.0,
    "training.per_device_train_batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.lr_scheduler_type": "linear",
    "training.warmup_steps": 0,
    "training.max_length": 2048,
    "training.beta": 0.1,
    "training.gradient_checkpointing": True,
}
ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}
TEMPLATES = {"phi": "phi3", "gemma2": "gemma", "cohere": None}


def convert(draft: Draft, folders: Sequence[FilePath]) -> None:
    """Convert each key. ``folders`` are searched for dataset_info.json. Raises UsageError if the method is not ORPO."""
    _method(draft)
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    _model(draft)
    keep_bnb_quantization(draft, "quantization_bit", "quantization_method", BNB_KEYS, default_method="bnb")
    _adapter(draft)
    keep_datasets(draft, folders)
    _loss(draft)
    _training(draft)
    convert_remaining(draft, ignored=IGNORED_KEYS, unsupported=UNSUPPORTED_KEYS, defaults=DEFAULTS, tool=TOOL)


def _method(draft: Draft) -> None:
    stage, loss = draft.peek("stage", "sft"), draft.peek("pref_loss", "sigmoid")
    if stage != "orpo" and (stage, loss) != ("dpo", "orpo"):
        what = f"`stage: {stage}`" + (f" with `pref_loss: {loss}`" if stage == "dpo" else "")
        raise UsageError(
            f"the LLaMA-Factory configuration is not for ORPO: it has {what}.",
            remedy="Only `stage: dpo` with `pref_loss: orpo`, and `stage: orpo` of earlier versions, are converted.",
        )
    for key in ("stage", "pref_loss"):
        if key in draft.source:
            draft.settle(key, "kept", None, IS_ORPO)


def _model(draft: Draft) -> None:
    keep_attention(draft, "flash_attn", ATTENTION)
    tokens = draft.peek("add_special_tokens")
    if isinstance(tokens, str):
        draft.keep("add_special_tokens", "model.add_special_tokens", split_names(tokens), "new tokens are trained")
    template = str(draft.peek("template"))
    if TEMPLATES.get(template, template) in BUILT_IN:
        draft.keep("template", "model.chat_template", TEMPLATES.get(template, template))
    draft.leave_out("template", TOKENIZER_TEMPLATE)
    draft.keep_if_true("pure_bf16", "model.dtype", "bfloat16")


def _adapter(draft: Draft) -> None:
    if not keep_adapter_type(draft, "finetuning_type", (*LORA_PATHS, "lora_dropout", "lora_target", *PISSA_KEYS)):
        return
    draft.keep("additional_target", LORA_PATHS["additional_target"], split_names(draft.peek("additional_target")))
    for key, path in LORA_PATHS.items():
        draft.keep(key, path)
    add_defaults(draft, {"lora.r": 8}, TOOL)
    rank = draft.value("lora.r")
    if isinstance(rank, int):
        draft.add("lora.lora_alpha", 2 * rank, f"the default of {TOOL}: twice the rank")
    targets = split_names(draft.peek("lora_target", "all"))
    draft.keep("lora_target", "lora.target_modules", "all-linear" if targets in (["all"], ["all-linear"]) else targets)
    add_defaults(draft, {"lora.target_modules": "all-linear"}, TOOL)
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")
    if draft.peek("pissa_init") is True:
        iterations = draft.peek("pissa_iter", 16)
        value = "pissa" if iterations == -1 else f"pissa_niter_{iterations}"
        draft.keep("pissa_init", "lora.init_lora_weights", value)
        draft.merge_into("pissa_iter", "lora.init_lora_weights")
    for key in PISSA_KEYS:
        draft.leave_out(key, "A trained adapter always fits the original base model.")


def _loss(draft: Draft) -> None:
    draft.keep("pref_beta", "training.beta")
    draft.keep("orpo_beta", "training.beta")
    if draft.peek("pref_ftx") == 0:
        draft.settle("pref_ftx", "empty")
    draft.leave_out("pref_ftx", "It increases the weight of the NLL, which is always one here.")
    draft.add("training.loss_on_prompt", False, "LLaMA-Factory computes the NLL over the completion only")


def _training(draft: Draft) -> None:
    if not draft.has("eval_strategy") and not draft.has("evaluation_strategy"):
        add_no_evaluation(draft)
    draft.keep_if_true("disable_gradient_checkpointing", "training.gradient_checkpointing", False)
    keep_use_reentrant(draft, "use_reentrant_gc")
