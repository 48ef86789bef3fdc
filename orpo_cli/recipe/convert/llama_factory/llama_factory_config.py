"""A LLaMA-Factory configuration (``pref_loss: orpo``, formerly ``stage: orpo``) as a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.llama_factory.datasets import keep_datasets
from orpo_cli.recipe.convert.llama_factory.unsupported_keys import IGNORED_KEYS, UNSUPPORTED_KEYS
from orpo_cli.recipe.convert.shared import BUILT_IN, DROPOUT_IGNORED, add_no_evaluation
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args, ignore_all, leave_out_all

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
    """Deal with every key. ``folders`` is where dataset_info.json may lie. Raises UsageError where it is not ORPO."""
    _method(draft)
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    _model(draft)
    _quantization(draft)
    _adapter(draft)
    keep_datasets(draft, folders)
    _loss(draft)
    _training(draft)
    ignore_all(draft, IGNORED_KEYS)
    leave_out_all(draft, UNSUPPORTED_KEYS)
    convert_training_args(draft)
    add_defaults(draft, DEFAULTS, TOOL)


def _method(draft: Draft) -> None:
    stage, loss = draft.peek("stage", "sft"), draft.peek("pref_loss", "sigmoid")
    if stage != "orpo" and (stage, loss) != ("dpo", "orpo"):
        what = f"`stage: {stage}`" + (f" with `pref_loss: {loss}`" if stage == "dpo" else "")
        raise UsageError(
            f"this LLaMA-Factory configuration has {what}: not ORPO.",
            remedy="Only `stage: dpo` with `pref_loss: orpo` is converted, and `stage: orpo` of former versions.",
        )
    for key in ("stage", "pref_loss"):
        if key in draft.source:
            draft.settle(key, "kept", None, "ORPO is what this tool does.")


def _model(draft: Draft) -> None:
    attention = str(draft.peek("flash_attn"))
    if attention in ATTENTION:
        draft.keep("flash_attn", "model.attn_implementation", ATTENTION[attention])
    draft.leave_out("flash_attn", "Attention is chosen for the machine, or by model.attn_implementation.")
    added = draft.peek("add_special_tokens")
    if isinstance(added, str):
        tokens = [part.strip() for part in added.split(",")]
        draft.keep("add_special_tokens", "model.add_special_tokens", tokens, "new ones are trained")
    template = str(draft.peek("template"))
    if TEMPLATES.get(template, template) in BUILT_IN:
        draft.keep("template", "model.chat_template", TEMPLATES.get(template, template))
    draft.leave_out(
        "template",
        "The tokenizer's own template is used, which is right for a model of that family that was tuned for chat. For a base "
        "model write a built-in name or the path of a .jinja file as model.chat_template.",
    )
    if draft.peek("pure_bf16") is True:
        draft.keep("pure_bf16", "model.dtype", "bfloat16")
    draft.leave_out("pure_bf16", "off")


def _quantization(draft: Draft) -> None:
    bits, method = draft.peek("quantization_bit"), str(draft.peek("quantization_method", "bnb"))
    if bits in (4, 8) and method in ("bnb", "bitsandbytes"):
        draft.keep("quantization_bit", f"quantization.load_in_{bits}bit", True)
        draft.join("quantization_method", f"quantization.load_in_{bits}bit")
    if bits == 4 and parse_path("quantization.load_in_4bit") in draft.values:
        draft.keep("quantization_type", "quantization.bnb_4bit_quant_type")
        draft.keep("double_quantization", "quantization.bnb_4bit_use_double_quant")
        draft.add("quantization.bnb_4bit_quant_type", "nf4", f"the default of {TOOL}")
        draft.add("quantization.bnb_4bit_use_double_quant", True, f"the default of {TOOL}")
    draft.leave_out("quantization_bit", "bitsandbytes quantizes to 4 and 8 bits; there is no other method here.")
    for key in ("quantization_method", "quantization_type", "double_quantization", "quantization_device_map"):
        draft.leave_out(key, "It does nothing without quantization_bit: 4 or 8 and bitsandbytes.")


def _adapter(draft: Draft) -> None:
    kind = draft.peek("finetuning_type", "lora")
    if kind != "lora":
        note = "Every weight is trained." if kind == "full" else f"There is no `{kind}` here: every weight is trained."
        draft.settle("finetuning_type", "kept" if kind == "full" else "left-out", None, note)
        for key in (*LORA_PATHS, "lora_dropout", "lora_target", "pissa_init", "pissa_iter", "pissa_convert"):
            draft.ignore(key, f"It does nothing with `finetuning_type: {kind}`.")
        return
    if "finetuning_type" in draft.source:
        draft.settle("finetuning_type", "kept", ("lora",), "the `lora` section")
    extra = draft.peek("additional_target")
    if isinstance(extra, str):
        draft.keep("additional_target", LORA_PATHS["additional_target"], [part.strip() for part in extra.split(",")])
    for key, path in LORA_PATHS.items():
        draft.keep(key, path)
    rank = draft.values.get(parse_path("lora.r"), 8)
    draft.add("lora.r", 8, f"the default of {TOOL}")
    if isinstance(rank, int):
        draft.add("lora.lora_alpha", 2 * rank, f"the default of {TOOL}: twice the rank")
    _targets(draft)
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")
    if draft.peek("pissa_init") is True:
        rounds = draft.peek("pissa_iter", 16)
        value = "pissa" if rounds == -1 else f"pissa_niter_{rounds}"
        draft.keep("pissa_init", "lora.init_lora_weights", value)
        draft.join("pissa_iter", "lora.init_lora_weights")
    for key in ("pissa_init", "pissa_iter", "pissa_convert"):
        draft.leave_out(key, "A finished adapter always fits the plain base.")


def _targets(draft: Draft) -> None:
    target = draft.peek("lora_target", "all")
    names = [part.strip() for part in target.split(",")] if isinstance(target, str) else target
    if names in (["all"], ["all-linear"]):
        draft.keep("lora_target", "lora.target_modules", "all-linear")
        draft.add("lora.target_modules", "all-linear", f"the default of {TOOL}")
    else:
        draft.keep("lora_target", "lora.target_modules", names)


def _loss(draft: Draft) -> None:
    draft.keep("pref_beta", "training.beta")
    draft.keep("orpo_beta", "training.beta")
    if draft.peek("pref_ftx") == 0:
        draft.settle("pref_ftx", "empty")
    draft.leave_out("pref_ftx", "It adds to the weight of the likelihood term, which is one here.")
    draft.add("training.loss_on_prompt", False, "LLaMA-Factory's likelihood term counts the answer alone")


def _training(draft: Draft) -> None:
    if not draft.has("eval_strategy") and not draft.has("evaluation_strategy"):
        add_no_evaluation(draft, TOOL)
    if draft.peek("disable_gradient_checkpointing") is True:
        draft.keep("disable_gradient_checkpointing", "training.gradient_checkpointing", False)
    draft.leave_out("disable_gradient_checkpointing", "off")
    reentrant = draft.peek("use_reentrant_gc")
    if reentrant is not None:
        value = {"use_reentrant": reentrant}
        draft.keep("use_reentrant_gc", "training.gradient_checkpointing_kwargs", value)
