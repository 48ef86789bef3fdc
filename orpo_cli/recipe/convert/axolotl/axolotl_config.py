"""An axolotl configuration (``rl: orpo``) as a recipe. Facts about axolotl are those of version 0.18."""

from __future__ import annotations

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.axolotl.datasets import keep_datasets
from orpo_cli.recipe.convert.axolotl.unsupported_keys import IGNORED_KEYS, UNSUPPORTED_KEYS
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared import (
    DROPOUT_IGNORED,
    add_no_evaluation,
    add_prompt_length,
    add_trackers,
    keep_template,
)
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args, ignore_all, leave_out_all

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
LORA_KEYS = tuple(key for key, path in RECIPE_PATHS.items() if path.startswith("lora."))
ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "flex_attention": "flex_attention",
    "eager_attention": "eager",
}


def convert(draft: Draft) -> None:
    """Deal with every key of axolotl's. Raises UsageError where the method is not ORPO."""
    method = draft.peek("rl")
    if method != "orpo":
        what = f"`rl: {method}`" if method else "no `rl:`, so it trains on single texts"
        raise UsageError(f"this axolotl configuration has {what}: not ORPO.", remedy="Only `rl: orpo` is converted.")
    draft.settle("rl", "kept", None, "ORPO is what this tool does.")
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
    ignore_all(draft, IGNORED_KEYS)
    leave_out_all(draft, UNSUPPORTED_KEYS)
    convert_training_args(draft)
    add_defaults(draft, DEFAULTS, "axolotl")


def _hub(draft: Draft) -> None:
    if draft.peek("hub_model_id") is None:
        for key in ("hub_strategy", "hub_revision"):
            draft.ignore(key, "Without hub_model_id axolotl pushes nothing.", f"training.{key}")
        return
    draft.add("training.push_to_hub", True, "axolotl pushes a run that has a hub_model_id while it trains")
    for key in ("hub_strategy", "hub_revision"):
        draft.keep(key, f"training.{key}")


def _adapter(draft: Draft) -> None:
    adapter = draft.peek("adapter")
    if adapter not in ("lora", "qlora"):
        if adapter is not None:
            draft.leave_out(
                "adapter", "There is no such adapter here: every weight is trained. LoRA has a `lora` section."
            )
        for key in (*LORA_KEYS, "lora_dropout", "lora_target_modules", "lora_target_linear", "peft"):
            draft.ignore(key, "Without `adapter` axolotl trains every weight.")
        return
    draft.settle("adapter", "kept", ("lora",), "the `lora` section" + (" and `quantization`" * (adapter == "qlora")))
    linear = draft.peek("lora_target_linear") is True
    targets = draft.peek("lora_target_modules")
    if linear:
        draft.keep("lora_target_linear", "lora.target_modules", "all-linear")
        draft.join("lora_target_modules", "lora.target_modules", "all-linear has every linear layer but the head.")
    else:
        draft.leave_out("lora_target_linear", "lora_target_modules says which.")
        draft.keep("lora_target_modules", "lora.target_modules")
    if linear and isinstance(targets, list) and {"lm_head", "embed_tokens"} & set(targets):
        draft.join("lora_target_modules", "lora.target_modules", "all-linear leaves out lm_head and embed_tokens.")
    draft.add("lora.r", 8, "peft's default")
    draft.add("lora.lora_alpha", 8, "peft's default")
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")
    loftq = draft.peek("peft")
    if isinstance(loftq, dict) and isinstance(loftq.get("loftq_config"), dict):
        draft.keep("peft", "lora.loftq_config", loftq["loftq_config"])
        draft.add("lora.init_lora_weights", "loftq", "peft.loftq_config asks for it")


def _quantization(draft: Draft) -> None:
    adapter = draft.peek("adapter") or (draft.outcomes["adapter"].value if "adapter" in draft.outcomes else None)
    if draft.peek("load_in_4bit") is True and adapter == "qlora":
        draft.keep("load_in_4bit", "quantization.load_in_4bit")
        for name, value in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_use_double_quant", True)):
            draft.add(f"quantization.{name}", value, "axolotl's own setting")
        draft.add("quantization.bnb_4bit_quant_storage", "bfloat16", "axolotl's own setting")
        changed = draft.peek("bnb_config_kwargs")
        if isinstance(changed, dict):
            draft.settle("bnb_config_kwargs", "kept", ("quantization",))
            for name, value in changed.items():
                draft.put(f"bnb_config_kwargs.{name}", value, f"quantization.{name}")
    elif draft.peek("load_in_8bit") is True and adapter == "lora":
        draft.keep("load_in_8bit", "quantization.load_in_8bit")
    quantized = "axolotl quantizes with `adapter: qlora` (4 bits) or `adapter: lora` (8 bits) only."
    for key in ("load_in_4bit", "load_in_8bit"):
        if draft.peek(key) is True:
            draft.ignore(key, quantized, f"quantization.{key}" if adapter == "lora" else None)
        draft.leave_out(key, quantized)
    draft.leave_out("bnb_config_kwargs", quantized)


def _model(draft: Draft) -> None:
    draft.keep("tokens", "model.add_special_tokens", note="new ones are trained")
    draft.keep("attn_implementation", "model.attn_implementation")
    for key, value in ATTENTION.items():
        if draft.peek(key) is True:
            draft.keep(key, "model.attn_implementation", value)
        draft.leave_out(key, "Attention is chosen for the machine, or by model.attn_implementation.")
    if draft.peek("tokenizer_config") in (None, draft.values.get(parse_path("model.model_name_or_path"))):
        draft.join("tokenizer_config", "model.model_name_or_path", "the model's own")
    draft.keep("tokenizer_config", "model.tokenizer_name_or_path")
    keep_template(draft, inline="chat_template_jinja")
    draft.leave_out(
        "special_tokens",
        "Tokens keep what the tokenizer says; a padding token is chosen without growing the vocabulary.",
    )
    for key, where in (("overrides_of_model_config", "model_config"), ("model_config", ""), ("model_kwargs", "")):
        draft.leave_out(key, f"See the `model` section for what of {where or key} can be set.")
    draft.leave_out("overrides_of_model_kwargs", "See the `model` section for what can be set.")


def _lengths(draft: Draft) -> None:
    """axolotl leaves out pairs that are longer than sequence_len, or cuts answers at it; it never cuts a prompt."""
    draft.keep("sequence_len", "training.max_length")
    length = draft.values.get(parse_path("training.max_length"), DEFAULTS["training.max_length"])
    excess = str(draft.peek("excess_length_strategy", "drop")).lower()
    if excess == "raise":
        draft.leave_out("excess_length_strategy", "axolotl stops at a longer pair; here it is left out and counted.")
    if excess != "truncate":
        draft.keep("excess_length_strategy", "dataset.drop_truncated", True)
        draft.add("dataset.drop_truncated", True, "axolotl leaves out pairs that are longer than sequence_len")
    else:
        draft.keep("excess_length_strategy", "dataset.drop_truncated", False)
    add_prompt_length(draft, length, "axolotl never cuts a prompt")


def _beta(draft: Draft) -> None:
    """axolotl takes trl.beta before rl_beta before orpo_alpha, in silence."""
    trl = draft.peek("trl")
    inner = trl.get("beta") if isinstance(trl, dict) else None
    if isinstance(trl, dict):
        draft.settle("trl", "kept" if inner is not None else "left-out", None, "only beta concerns ORPO")
        for name, value in trl.items():
            if name == "beta" and inner is not None:
                draft.put("trl.beta", value, "training.beta")
            else:
                note = "It belongs to methods that sample answers."
                draft.record(f"trl.{name}", value, "empty" if value is None else "left-out", None, note)
    draft.leave_out("trl", "It is no mapping.")
    for key, before in (("rl_beta", "trl.beta"), ("orpo_alpha", "trl.beta or rl_beta")):
        if parse_path("training.beta") in draft.values:
            draft.ignore(key, f"axolotl takes {before} first.")
        else:
            draft.keep(key, "training.beta")


def _schedule(draft: Draft) -> None:
    total, micro = draft.peek("batch_size"), draft.values.get(parse_path("training.per_device_train_batch_size"), 1)
    if draft.has("gradient_accumulation_steps"):
        draft.ignore("batch_size", "gradient_accumulation_steps is given.")
    elif isinstance(total, int) and isinstance(micro, int) and total >= micro:
        note = f"{total} / {micro}, as axolotl computes it"
        draft.keep("batch_size", "training.gradient_accumulation_steps", total // micro, note)
    draft.leave_out("batch_size", "It is smaller than micro_batch_size.")
    arguments = draft.peek("optim_args")
    if isinstance(arguments, dict):
        draft.keep(
            "optim_args", "training.optim_args", ",".join(f"{name}={value}" for name, value in arguments.items())
        )
    for key in ("optim_target_modules", "lr_scheduler_kwargs"):
        draft.keep(key, f"training.{key}")
    if draft.has("warmup_steps"):
        draft.keep("warmup_steps", "training.warmup_steps")
        draft.ignore("warmup_ratio", "warmup_steps is given.")
    draft.keep("warmup_ratio", "training.warmup_steps", note="a share of all steps, below 1")
    draft.add("training.warmup_steps", 0.03, "the default of axolotl, which stops at 100 steps")
    grouped = draft.peek("group_by_length")
    if grouped is True:
        path = "training.train_sampling_strategy"
        draft.ignore("group_by_length", "axolotl does not read it under `rl: orpo`.", path, "group_by_length")
    draft.leave_out("group_by_length", "off")


def _evaluation_and_saving(draft: Draft) -> None:
    epochs = draft.values.get(parse_path("training.num_train_epochs"), 1.0)
    for per_epoch, strategy, steps in (
        ("evals_per_epoch", "eval_strategy", "eval_steps"),
        ("saves_per_epoch", "save_strategy", "save_steps"),
    ):
        times = draft.peek(per_epoch)
        if times == 1:
            draft.keep(per_epoch, f"training.{strategy}", "epoch")
        elif isinstance(times, int | float) and isinstance(epochs, int | float) and times * epochs > 1:
            share = round(1 / (times * epochs), 6)
            draft.keep(
                per_epoch, f"training.{steps}", share, f"as a share of all steps, 1 / ({times:g} × {epochs:g} epochs)"
            )
            draft.add(f"training.{strategy}", "steps", f"{per_epoch} asks for it")
        draft.leave_out(per_epoch, "It is no number of times.")
        if draft.has(steps):
            draft.keep(steps, f"training.{steps}")
            draft.join(strategy, f"training.{strategy}")
            draft.add(f"training.{strategy}", "steps", f"{steps} asks for it")
        draft.keep(strategy, f"training.{strategy}")
    draft.add("training.save_strategy", "epoch", "the default of axolotl")
    draft.keep("save_total_limit", "training.save_total_limit")
    draft.add("training.save_total_limit", 4, "the default of axolotl")
    if parse_path("training.eval_strategy") not in draft.values:
        add_no_evaluation(draft, "axolotl")
    if parse_path("dataset.eval") not in {path[:2] for path in draft.values}:
        for key, path in (("eval_strategy", "training.eval_strategy"), ("eval_steps", "training.eval_steps")):
            if parse_path(path) in draft.values:
                draft.withdraw(
                    parse_path(path), f"There are no held-out pairs to evaluate on, so axolotl ignores {key}."
                )


def _precision(draft: Draft) -> None:
    for key in ("bfloat16", "float16", "float32"):
        if draft.peek(key) is True:
            draft.keep(key, "model.dtype", key)
        draft.leave_out(key, "off")
    bf16 = draft.peek("bf16")
    if bf16 == "auto":
        draft.settle("bf16", "kept", parse_path("training.bf16"), "left open: it is decided for the machine, as there")
    elif bf16 == "full":
        draft.keep("bf16", "model.dtype", "bfloat16", "bf16: full")
    if bf16 in ("auto", "full", True):
        draft.join("fp16", "training.bf16", "bf16 goes first")
    for key in ("bf16", "fp16", "tf32"):
        draft.keep(key, f"training.{key}")
    checkpointing = draft.peek("gradient_checkpointing")
    if isinstance(checkpointing, str):
        note = f"without the offloading of `{checkpointing}`"
        draft.keep("gradient_checkpointing", "training.gradient_checkpointing", True, note)


def _trackers(draft: Draft) -> None:
    trackers: list[tuple[str, str]] = []
    if draft.has("wandb_project") or draft.peek("use_wandb") is True:
        trackers.append(("wandb", "use_wandb" if draft.peek("use_wandb") is True else "wandb_project"))
    for name, key in (
        ("mlflow", "use_mlflow"),
        ("tensorboard", "use_tensorboard"),
        ("comet_ml", "use_comet"),
        ("trackio", "use_trackio"),
    ):
        if draft.peek(key) is True:
            trackers.append((name, key))
    for key in ("wandb_name", "mlflow_run_name", "trackio_run_name"):
        if trackers and parse_path("training.run_name") not in draft.values:
            draft.keep(key, "training.run_name")
        draft.leave_out(key, "No tracker is on, or another one names the run.")
    draft.keep("trackio_project_name", "training.project")
    variables = {"wandb_project": "WANDB_PROJECT", "wandb_entity": "WANDB_ENTITY", "wandb_log_model": "WANDB_LOG_MODEL"}
    add_trackers(draft, trackers, variables)
    for key in ("use_wandb", "use_mlflow", "use_tensorboard", "use_comet", "use_trackio"):
        draft.leave_out(key, "off")
