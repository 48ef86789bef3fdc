"""AutoTrain: YAML configurations, ``training_params.json`` and commands with ``trainer: orpo``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.shared_settings import (
    BUILT_IN,
    DROPOUT_IGNORED,
    IS_ORPO,
    TOKENIZER_TEMPLATE,
    keep_columns,
    split_names,
)
from orpo_cli.recipe.convert.training_args import add_defaults, convert_remaining

TOOL = "autotrain"
SECTIONS = ("data", "params", "hub", "column_mapping")
NAMES = {  # names of a section or of a flag: the parameter
    "base_model": "model",
    "path": "data_path",
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "use_peft": "peft",
    "mp": "mixed_precision",
    "max_len": "model_max_length",
    "max_length": "model_max_length",
    "disable_gc": "disable_gradient_checkpointing",
    "use_fa2": "use_flash_attention_2",
    "eval_strategy": "evaluation_strategy",
}
RECIPE_PATHS = {
    "model": "model.model_name_or_path",
    "project_name": "output_dir",
    "attn_implementation": "model.attn_implementation",
    "lr": "training.learning_rate",
    "epochs": "training.num_train_epochs",
    "batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "optimizer": "training.optim",
    "scheduler": "training.lr_scheduler_type",
    "max_prompt_length": "dataset.max_prompt_length",
}
LORA_PATHS = {"lora_r": "lora.r", "lora_alpha": "lora.lora_alpha"}
LORA_KEYS = (*LORA_PATHS, "lora_dropout", "target_modules")
QUANTIZATION_KEYS = ("quantization", "use_int4", "use_int8")  # the last two: flags of 2024
COLUMNS = {"text_column": "chosen", "rejected_text_column": "rejected", "prompt_text_column": "prompt"}
DEFAULTS = {
    "training.learning_rate": 3e-5,
    "training.num_train_epochs": 1,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 4,
    "training.lr_scheduler_type": "linear",
    "training.warmup_steps": 0.1,
    "training.max_length": 1024,
    "training.beta": 0.1,
    "training.gradient_checkpointing": True,
    "dataset.max_prompt_length": 128,
}
IGNORED_KEYS: Mapping[str, str] = {
    "AutoTrain uses it only for other trainers than orpo.": "model_ref max_completion_length add_eos_token "
    "apply_chat_template",
}
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "training.max_length limits a pair.": "model_max_length",
    "Rows are never padded.": "padding",
    "`orpo train` runs where it is started; `orpo submit` runs it on another machine.": "backend spaces_id",
    "A recipe never contains a token. Set HF_TOKEN or run `hf auth login`.": "token",
    "It is a part of the name of the repository: set hub.repo_id.": "username",
    "Upload with `orpo push-to-hub`.": "push_to_hub",
    "Merge with `orpo merge`.": "merge_adapter",
    "The `engine` section controls how a step is computed.": "unsloth",
    "The `launch` section sets the processes.": "distributed_backend",
    "It has no equivalent here.": "train deploy inference",
}


def convert(draft: Draft) -> None:
    """Convert each key, of the sections ``data``, ``params`` and ``hub``, too. Raises UsageError if the method is not ORPO."""
    flat, written = _flatten(draft)
    _method(flat)
    _adapter(flat)
    for key, path in RECIPE_PATHS.items():
        flat.keep(key, path)
    _data(flat)
    _training(flat)
    convert_remaining(flat, ignored=IGNORED_KEYS, unsupported=UNSUPPORTED_KEYS, defaults=DEFAULTS, tool=TOOL)
    for key in SECTIONS:
        flat.leave_out(key, "It is not a mapping.")
    flat.settle_unknown_keys()
    draft.values |= flat.values
    draft.additions |= flat.additions
    draft.remarks += flat.remarks
    for name, outcome in flat.outcomes.items():
        key = written.get(name, name)
        draft.record(key, outcome.value, outcome.outcome, outcome.path, outcome.note, outcome.offer)


def _flatten(draft: Draft) -> tuple[Draft, dict[str, str]]:
    """Draft of the parameters by AutoTrain's names, and the key that each is written under."""
    values: dict[str, Any] = {}
    written: dict[str, str] = {}

    def add(prefix: str, section: Mapping[str, Any]) -> None:
        for key, value in section.items():
            if key in SECTIONS and isinstance(value, dict):
                draft.record(f"{prefix}{key}", value, "kept" if value else "empty", None, "See its keys.")
                add(f"{prefix}{key}.", value)
                continue
            name = NAMES.get(key, key)
            if name in values:
                draft.record(key, value, "left-out", None, f"{written[name]} has the same meaning.")
                continue
            values[name], written[name] = value, f"{prefix}{key}"

    add("", draft.source)
    draft.source.clear()
    return Draft(draft.tool, values, outcomes=dict(draft.outcomes)), written


def _method(draft: Draft) -> None:
    task = str(draft.peek("task", "llm"))
    found = re.fullmatch(r"(?:llm|lm[_-]training|llm[_-]training|llm[_-]finetuning)(?:[-:](\w+))?", task)
    trainer = draft.peek("trainer", (found and found[1]) or "default")
    if found is None or trainer != "orpo":
        what = f"`task: {task}`" if found is None or found[1] == trainer else f"`trainer: {trainer}`"
        raise UsageError(
            f"the AutoTrain configuration is not for ORPO: it has {what}.",
            remedy="Only `trainer: orpo`, or `task: llm-orpo`, is converted.",
        )
    for key in ("task", "trainer"):
        if key in draft.source:
            draft.settle(key, "kept", None, IS_ORPO)


def _adapter(draft: Draft) -> None:
    bits = {"int4": 4, "int8": 8}.get(str(draft.peek("quantization")))
    for key, value in (("use_int4", 4), ("use_int8", 8)):
        bits = value if draft.peek(key) is True else bits
    if draft.peek("peft") is not True:
        for key in (*LORA_KEYS, *QUANTIZATION_KEYS):
            draft.ignore(key, "Without peft AutoTrain trains all weights.")
        draft.leave_out("peft", "It is not true.")
        return
    draft.settle("peft", "kept", ("lora",), "the `lora` section")
    for key, path in LORA_PATHS.items():
        draft.keep(key, path)
    targets = split_names(draft.peek("target_modules", "all-linear"))
    draft.keep("target_modules", "lora.target_modules", "all-linear" if targets == ["all-linear"] else targets)
    add_defaults(draft, {"lora.r": 16, "lora.lora_alpha": 32, "lora.target_modules": "all-linear"}, TOOL)
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")
    if draft.source.keys().isdisjoint(QUANTIZATION_KEYS) and draft.outcomes.keys().isdisjoint(QUANTIZATION_KEYS):
        bits = 4  # null, and an expression of the shell, are no default
        draft.add("quantization.load_in_4bit", True, f"the default of {TOOL} with peft")
    for key in QUANTIZATION_KEYS:
        if bits is not None and draft.has(key):
            draft.keep(key, f"quantization.load_in_{bits}bit", True)
        draft.leave_out(key, "AutoTrain quantizes to int4 or int8.")
    if bits == 4:
        draft.add("quantization.bnb_4bit_quant_type", "nf4", "AutoTrain's setting")
        draft.add("quantization.bnb_4bit_use_double_quant", False, "AutoTrain's setting")


def _data(draft: Draft) -> None:
    path = draft.peek("data_path")
    draft.keep("data_path", "dataset.train.path")
    for key, section in (("train_split", "dataset.train"), ("valid_split", "dataset.eval")):
        if path is None:
            draft.leave_out(key, "It has no effect without a dataset.")
        if not draft.has(key):
            continue
        subset, _, split = str(draft.peek(key)).rpartition(":")
        draft.keep(key, f"{section}.split", split)
        draft.add(f"{section}.path", path, "the same dataset")
        if subset:
            draft.add(f"{section}.name", subset, f"the subset in {key}")
    if not draft.has("text_column"):
        for section in ("dataset.train", "dataset.eval"):
            if draft.has_value(f"{section}.path"):
                draft.add(f"{section}.columns.chosen", "text", f"the default of {TOOL}")
    keep_columns(draft, COLUMNS)
    template = draft.peek("chat_template")
    if template in BUILT_IN or template == "tokenizer":
        draft.keep("chat_template", "model.chat_template")
    elif template in (None, "none", "None"):
        draft.merge_into("chat_template", "dataset.train.format")
        for section in ("dataset.train", "dataset.eval"):
            if draft.has_value(f"{section}.path"):
                draft.add(f"{section}.format", "text", "without chat_template AutoTrain trains texts as they are")
    draft.leave_out("chat_template", TOKENIZER_TEMPLATE)


def _training(draft: Draft) -> None:
    length = draft.peek("block_size", -1)
    if isinstance(length, int) and length > 0:
        draft.keep("block_size", "training.max_length")
    draft.leave_out("block_size", "AutoTrain then takes 1024 tokens.")
    if draft.peek("logging_steps") == -1:
        draft.settle("logging_steps", "empty")
    if draft.peek("mixed_precision") in ("bf16", "fp16"):
        draft.keep("mixed_precision", f"training.{draft.peek('mixed_precision')}", True)
    draft.leave_out("mixed_precision", "It is neither bf16 nor fp16.")
    if draft.peek("warmup_ratio") == 0:  # elsewhere the default, here 0.1 is
        draft.keep("warmup_ratio", "training.warmup_steps", 0)
    draft.keep_if_true("use_flash_attention_2", "model.attn_implementation", "flash_attention_2")
    draft.keep_if_true("disable_gradient_checkpointing", "training.gradient_checkpointing", False)
    log = draft.peek("log", "none")
    draft.keep("log", "training.report_to", log if log in ("none", "all") else [log])
    draft.ignore("dpo_beta", "AutoTrain uses it only with `trainer: dpo`; with ORPO beta is 0.1.", "training.beta")
    if draft.has_value("dataset.eval"):
        draft.keep("evaluation_strategy", "training.eval_strategy")
        draft.add("training.eval_strategy", "epoch", f"the default of {TOOL}")
        strategy = draft.value("training.eval_strategy")
        draft.ignore("save_strategy", "AutoTrain saves when it evaluates.", None)
        draft.add("training.save_strategy", strategy, "AutoTrain saves when it evaluates")
        draft.add("training.load_best_model_at_end", True, "AutoTrain's setting with held-out pairs")
    for key in ("evaluation_strategy", "save_strategy"):
        draft.ignore(key, "Without valid_split AutoTrain neither evaluates nor saves checkpoints.")
    _hub(draft)


def _hub(draft: Draft) -> None:
    name, project = draft.peek("username"), draft.value("output_dir")
    if draft.has("repo_id"):
        draft.keep("repo_id", "hub.repo_id")
    elif isinstance(name, str) and isinstance(project, str) and re.fullmatch(r"[\w.-]+", name + project):
        draft.keep("username", "hub.repo_id", f"{name}/{project}", "username/project_name")
