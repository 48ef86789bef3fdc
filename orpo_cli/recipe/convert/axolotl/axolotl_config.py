"""axolotl: configurations with ``rl: orpo``, as version 0.18 reads them."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.axolotl.datasets import keep_datasets
from orpo_cli.recipe.convert.axolotl.unsupported_keys import IGNORED_KEYS, UNSUPPORTED_KEYS
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared_settings import (
    DROPOUT_IGNORED,
    IS_ORPO,
    add_no_evaluation,
    add_prompt_length,
    keep_template,
)
from orpo_cli.recipe.convert.training_args import add_defaults, convert_remaining

RECIPE_PATHS = {  # axolotl's name: the recipe's path
    "base_model": "model.model_name_or_path",
    "model_revision": "model.model_revision",
    "revision_of_model": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code",
    "device_map": "model.device_map",
    "max_memory": "model.max_memory",
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_exclude_modules": "lora.exclude_modules",
    "lora_modules_to_save": "lora.modules_to_save",
    "lora_target_parameters": "lora.target_parameters",
    "lora_rank_pattern": "lora.rank_pattern",
    "lora_alpha_pattern": "lora.alpha_pattern",
    "lora_fan_in_fan_out": "lora.fan_in_fan_out",
    "peft_use_dora": "lora.use_dora",
    "peft_use_rslora": "lora.use_rslora",
    "peft_init_lora_weights": "lora.init_lora_weights",
    "peft_layers_to_transform": "lora.layers_to_transform",
    "peft_layers_pattern": "lora.layers_pattern",
    "peft_layer_replication": "lora.layer_replication",
    "peft_trainable_token_indices": "lora.trainable_token_indices",
    "peft_ensure_weight_tying": "lora.ensure_weight_tying",
    "loraplus_lr_ratio": "lora.loraplus_lr_ratio",
    "loraplus_lr_embedding": "lora.loraplus_lr_embedding",
    "micro_batch_size": "training.per_device_train_batch_size",
    "eval_batch_size": "training.per_device_eval_batch_size",
    "num_epochs": "training.num_train_epochs",
    "lr_scheduler": "training.lr_scheduler_type",
    "optimizer": "training.optim",
    "ddp_backend": "training.ddp_backend",
}
DEFAULTS = {
    "training.per_device_train_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.num_train_epochs": 1.0,
    "training.max_length": 512,
    "training.lr_scheduler_type": "cosine",
    "training.beta": 0.1,
}
TRACKERS = {
    "use_wandb": "wandb",
    "use_mlflow": "mlflow",
    "use_tensorboard": "tensorboard",
    "use_comet": "comet_ml",
    "use_trackio": "trackio",
}
LORA_KEYS = tuple(key for key, path in RECIPE_PATHS.items() if path.startswith("lora."))
ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "flex_attention": "flex_attention",
    "eager_attention": "eager",
}


def convert(draft: Draft) -> None:
    """Convert each key. Raises UsageError if the method is not ORPO."""
    method = draft.peek("rl")
    if method != "orpo":
        what = f"`rl: {method}`" if method else "no `rl:`"
        raise UsageError(
            f"the axolotl configuration is not for ORPO: it has {what}.", remedy="Only `rl: orpo` is converted."
        )
    draft.settle("rl", "kept", None, IS_ORPO)
    _adapter(draft)
    _quantization(draft)
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    _model(draft)
    keep_datasets(draft)
    _lengths(draft)
    _beta(draft)
    _schedule(draft)
    _evaluation_and_saving(draft)
    _precision(draft)
    _trackers(draft)
    _hub(draft)
    convert_remaining(draft, ignored=IGNORED_KEYS, unsupported=UNSUPPORTED_KEYS, defaults=DEFAULTS, tool="axolotl")


def _hub(draft: Draft) -> None:
    pushes = draft.has("hub_model_id")
    if pushes:
        draft.add("training.push_to_hub", True, "axolotl pushes during training if hub_model_id is set")
    for key in ("hub_strategy", "hub_revision"):
        if pushes:
            draft.keep(key, f"training.{key}")
        else:
            draft.ignore(key, "Without hub_model_id axolotl does not push.", f"training.{key}")


def _adapter(draft: Draft) -> None:
    adapter = draft.peek("adapter")
    if adapter not in ("lora", "qlora"):
        if adapter is not None:
            note = "This adapter is not supported: all weights are trained. For LoRA, add a `lora` section."
            draft.leave_out("adapter", note)
        for key in (*LORA_KEYS, "lora_dropout", "lora_target_modules", "lora_target_linear", "peft"):
            draft.ignore(key, "Without `adapter` axolotl trains all weights.")
        return
    draft.settle("adapter", "kept", ("lora",), "the `lora` section" + (" and `quantization`" * (adapter == "qlora")))
    linear = draft.peek("lora_target_linear") is True
    targets = draft.peek("lora_target_modules")
    if linear:
        draft.keep("lora_target_linear", "lora.target_modules", "all-linear")
        draft.merge_into(
            "lora_target_modules", "lora.target_modules", "all-linear is every linear layer except the output layer."
        )
    else:
        draft.leave_out("lora_target_linear", "lora_target_modules lists the layers.")
        draft.keep("lora_target_modules", "lora.target_modules")
    if linear and isinstance(targets, list) and {"lm_head", "embed_tokens"} & set(targets):
        draft.merge_into(
            "lora_target_modules", "lora.target_modules", "all-linear does not include lm_head and embed_tokens."
        )
    add_defaults(draft, {"lora.r": 8, "lora.lora_alpha": 8}, "peft")
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")
    loftq = draft.peek("peft")
    if isinstance(loftq, dict) and isinstance(loftq.get("loftq_config"), dict):
        draft.keep("peft", "lora.loftq_config", loftq["loftq_config"])
        draft.add("lora.init_lora_weights", "loftq", "required by peft.loftq_config")


def _quantization(draft: Draft) -> None:
    adapter = draft.peek("adapter") or (draft.outcomes["adapter"].value if "adapter" in draft.outcomes else None)
    if draft.peek("load_in_4bit") is True and adapter == "qlora":
        draft.keep("load_in_4bit", "quantization.load_in_4bit")
        for name, value in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_use_double_quant", True)):
            draft.add(f"quantization.{name}", value, "axolotl's setting")
        draft.add("quantization.bnb_4bit_quant_storage", "bfloat16", "axolotl's setting")
        overrides = draft.peek("bnb_config_kwargs")
        if isinstance(overrides, dict):
            draft.settle("bnb_config_kwargs", "kept", ("quantization",))
            for name, value in overrides.items():
                draft.put(f"bnb_config_kwargs.{name}", value, f"quantization.{name}")
    elif draft.peek("load_in_8bit") is True and adapter == "lora":
        draft.keep("load_in_8bit", "quantization.load_in_8bit")
    note = "axolotl quantizes only with `adapter: qlora` (4 bits) or `adapter: lora` (8 bits)."
    for key in ("load_in_4bit", "load_in_8bit"):
        if draft.peek(key) is True:
            draft.ignore(key, note, f"quantization.{key}" if adapter == "lora" else None)
        draft.leave_out(key, note)
    draft.leave_out("bnb_config_kwargs", note)


def _model(draft: Draft) -> None:
    draft.keep("tokens", "model.add_special_tokens", note="new tokens are trained")
    draft.keep("attn_implementation", "model.attn_implementation")
    for key, value in ATTENTION.items():
        draft.keep_if_true(key, "model.attn_implementation", value)
    if draft.peek("tokenizer_config") in (None, draft.value("model.model_name_or_path")):
        draft.merge_into("tokenizer_config", "model.model_name_or_path", "the model's tokenizer")
    draft.keep("tokenizer_config", "model.tokenizer_name_or_path")
    keep_template(draft, inline="chat_template_jinja")
    note = "The tokenizer's special tokens are used; a padding token is chosen without adding one to the vocabulary."
    draft.leave_out("special_tokens", note)
    for key in ("overrides_of_model_config", "model_config", "model_kwargs", "overrides_of_model_kwargs"):
        draft.leave_out(key, "The `model` section has the settings that are supported.")


def _lengths(draft: Draft) -> None:
    """Convert length limits. axolotl drops pairs longer than sequence_len or truncates completions; it never truncates a prompt."""
    draft.keep("sequence_len", "training.max_length")
    length = draft.value("training.max_length", DEFAULTS["training.max_length"])
    excess = str(draft.peek("excess_length_strategy", "drop")).lower()
    if excess == "raise":
        draft.leave_out(
            "excess_length_strategy", "axolotl stops with an error at a longer pair; orpo-cli drops and counts it."
        )
    if excess != "truncate":
        draft.keep("excess_length_strategy", "dataset.drop_truncated", True)
        draft.add("dataset.drop_truncated", True, "axolotl drops pairs that are longer than sequence_len")
    else:
        draft.keep("excess_length_strategy", "dataset.drop_truncated", False)
    add_prompt_length(draft, length, "axolotl never truncates a prompt")


def _beta(draft: Draft) -> None:
    """Convert beta. axolotl uses trl.beta, else rl_beta, else orpo_alpha, without a message."""
    trl = draft.peek("trl")
    inner = trl.get("beta") if isinstance(trl, dict) else None
    if isinstance(trl, dict):
        draft.settle("trl", "kept" if inner is not None else "left-out", None, "only beta applies to ORPO")
        for name, value in trl.items():
            if name == "beta" and inner is not None:
                draft.put("trl.beta", value, "training.beta")
            else:
                note = "It is for methods that generate completions during training."
                draft.record(f"trl.{name}", value, "empty" if value is None else "left-out", None, note)
    draft.leave_out("trl", "It is not a mapping.")
    for key, before in (("rl_beta", "trl.beta"), ("orpo_alpha", "trl.beta or rl_beta")):
        if draft.has_value("training.beta"):
            draft.ignore(key, f"axolotl uses {before} instead.")
        else:
            draft.keep(key, "training.beta")


def _schedule(draft: Draft) -> None:
    total, micro = draft.peek("batch_size"), draft.value("training.per_device_train_batch_size", 1)
    if draft.has("gradient_accumulation_steps"):
        draft.ignore("batch_size", "gradient_accumulation_steps is set.")
    elif isinstance(total, int) and isinstance(micro, int) and total >= micro:
        note = f"{total} / {micro}, as in axolotl"
        draft.keep("batch_size", "training.gradient_accumulation_steps", total // micro, note)
    draft.leave_out("batch_size", "It is smaller than micro_batch_size.")
    arguments = draft.peek("optim_args")
    if isinstance(arguments, dict):
        text = ",".join(f"{name}={value}" for name, value in arguments.items())
        draft.keep("optim_args", "training.optim_args", text)
    for key in ("optim_target_modules", "lr_scheduler_kwargs"):
        draft.keep(key, f"training.{key}")
    if draft.has("warmup_steps"):
        draft.keep("warmup_steps", "training.warmup_steps")
        draft.ignore("warmup_ratio", "warmup_steps is set.")
    draft.keep("warmup_ratio", "training.warmup_steps", note="below 1: a fraction of all steps")
    draft.add("training.warmup_steps", 0.03, "the default of axolotl, there at most 100 steps")
    if draft.peek("group_by_length") is True:
        path = parse_path("training.train_sampling_strategy")
        note = "axolotl does not use it with `rl: orpo`."
        draft.settle("group_by_length", "ignored", path, note, offer="group_by_length")
    draft.leave_out("group_by_length", "It is not true.")


def _evaluation_and_saving(draft: Draft) -> None:
    epochs = draft.value("training.num_train_epochs", 1.0)
    for per_epoch, strategy, steps in (
        ("evals_per_epoch", "eval_strategy", "eval_steps"),
        ("saves_per_epoch", "save_strategy", "save_steps"),
    ):
        times = draft.peek(per_epoch)
        if times == 1:
            draft.keep(per_epoch, f"training.{strategy}", "epoch")
        elif isinstance(times, int | float) and isinstance(epochs, int | float) and times * epochs > 1:
            note = f"a fraction of all steps, 1 / ({times:g} × {epochs:g} epochs)"
            draft.keep(per_epoch, f"training.{steps}", round(1 / (times * epochs), 6), note)
            draft.add(f"training.{strategy}", "steps", f"required by {per_epoch}")
        draft.leave_out(per_epoch, "It is not a valid number.")
        if draft.has(steps):
            draft.keep(steps, f"training.{steps}")
            draft.merge_into(strategy, f"training.{strategy}")
            draft.add(f"training.{strategy}", "steps", f"required by {steps}")
        draft.keep(strategy, f"training.{strategy}")
    draft.add("training.save_strategy", "epoch", "the default of axolotl")
    draft.keep("save_total_limit", "training.save_total_limit")
    draft.add("training.save_total_limit", 4, "the default of axolotl")
    if draft.has_value("dataset.eval"):
        add_no_evaluation(draft)
        return
    for key in ("eval_strategy", "eval_steps"):
        if draft.has_value(f"training.{key}"):
            draft.withdraw(parse_path(f"training.{key}"), f"There are no held-out pairs, so axolotl ignores {key}.")


def _precision(draft: Draft) -> None:
    for key in ("bfloat16", "float16", "float32"):
        draft.keep_if_true(key, "model.dtype", key)
    bf16 = draft.peek("bf16")
    if bf16 == "auto":
        draft.settle("bf16", "kept", parse_path("training.bf16"), "chosen for the machine, as in axolotl")
    elif bf16 == "full":
        draft.keep("bf16", "model.dtype", "bfloat16", "bf16: full")
    if bf16 in ("auto", "full", True):
        draft.merge_into("fp16", "training.bf16", "bf16 has priority")
    for key in ("bf16", "fp16", "tf32"):
        draft.keep(key, f"training.{key}")
    checkpointing = draft.peek("gradient_checkpointing")
    if isinstance(checkpointing, str):
        note = f"without the offloading of `{checkpointing}`"
        draft.keep("gradient_checkpointing", "training.gradient_checkpointing", True, note)


def _trackers(draft: Draft) -> None:
    trackers = {key: name for key, name in TRACKERS.items() if draft.peek(key) is True}
    if draft.has("wandb_project") and "use_wandb" not in trackers:
        trackers = {"wandb_project": "wandb", **trackers}
    for key in ("wandb_name", "mlflow_run_name", "trackio_run_name"):
        if trackers and not draft.has_value("training.run_name"):
            draft.keep(key, "training.run_name")
        draft.leave_out(key, "No tracker is on, or another key sets the run name.")
    draft.keep("trackio_project_name", "training.project")
    for key in trackers:
        note = f"set WANDB_PROJECT={draft.source[key]} in the environment" if key == "wandb_project" else None
        draft.keep(key, "training.report_to", list(trackers.values()), note)
    for key in ("wandb_project", "wandb_entity", "wandb_log_model"):
        draft.leave_out(key, f"Set the environment variable {key.upper()}.")
    for key in TRACKERS:
        draft.leave_out(key, "It is not true.")
