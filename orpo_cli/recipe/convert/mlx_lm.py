"""mlx-lm and mlx-lm-lora: YAML configurations and commands with ``train_mode: orpo``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.convert.shared_settings import IS_ORPO, keep_columns
from orpo_cli.recipe.convert.training_args import add_defaults, convert_remaining

TOOL = "mlx-lm"
RECIPE_PATHS = {
    "model": "model.model_name_or_path",
    "adapter_path": "output_dir",
    "batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "max_seq_length": "training.max_length",
    "grad_checkpoint": "training.gradient_checkpointing",
    "seed": "training.seed",
    "beta": "training.beta",
}
FEATURES = {
    "prompt_feature": "prompt",
    "chosen_feature": "chosen",
    "rejected_feature": "rejected",
    "system_feature": "system",
}
ADAM = {"eps": "adam_epsilon", "weight_decay": "weight_decay"}
DEFAULTS = {
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-5,
    "training.lr_scheduler_type": "constant",
    "training.max_length": 2048,
    "training.beta": 0.1,
    "training.gradient_checkpointing": False,
}
LOSS = (
    "The loss of mlx-lm-lora has no NLL term and takes the prompt into the odds ratio; the recipe trains with the loss of the "
    "paper. Compare the learning rate."
)
LAYERS = (
    "Without num_layers, mlx-lm-lora before version 1.0.1 trains only the last 16 layers. Later versions train all layers, as the "
    "recipe does."
)
LAYERS_OF_FULL = "Versions before 1.1.10 train only so many of the last layers; later ones and the recipe train all."
LAYERS_OF_ADAPTER = "List the layers of the adapter in lora.layers_to_transform."
IGNORED_KEYS: Mapping[str, str] = {
    "mlx-lm-lora does not use it with `train_mode: orpo`.": "reward_scaling mask_prompt dpo_cpo_loss_type delta "
    "reference_model_path judge judge_config judge_system alpha group_size epsilon epsilon_high max_completion_length "
    "temperature reward_weights reward_functions reward_functions_file grpo_loss_type importance_sampling_level "
    "sft_loss_type lambda_mse_target tau_mse_target lambda_mse clip_epsilon_logits prompt completion_feature text_feature "
    "chat_feature",
}
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The quantization must be that of bitsandbytes: 4 or 8 bits.": "load_in_6bits load_in_mxfp4 qat_enable qat_bits "
    "qat_group_size qat_mode qat_start_step qat_interval",
    "All held-out pairs are evaluated; dataset.eval.max_samples limits them.": "val_batches",
    "Evaluate with `orpo eval`.": "test test_batches",
    "Training starts from the base model. Merge an adapter first (`orpo merge`).": "resume_adapter_file",
    "Merge with `orpo merge`.": "fuse lm_studio_name",
    "The `engine` section controls how a step is computed.": "efficient_long_context recurrence_chunk_size seq_step_size "
    "clear_cache_threshold",
}


def convert(draft: Draft, folders: Sequence[FilePath]) -> None:
    """Convert each key. ``folders`` are searched for the data. Raises UsageError if the method is not ORPO."""
    _method(draft)
    _adapter(draft)
    for key, path in RECIPE_PATHS.items():
        draft.keep(key, path)
    accumulation = draft.value("training.gradient_accumulation_steps", 1)
    batches = accumulation if isinstance(accumulation, int) and accumulation > 0 else 1
    _data(draft, folders)
    _steps(draft, batches)
    _optimizer(draft)
    _schedule(draft)
    convert_remaining(draft, ignored=IGNORED_KEYS, unsupported=UNSUPPORTED_KEYS, defaults=DEFAULTS, tool=TOOL)


def _method(draft: Draft) -> None:
    names = ("train_mode", "training_mode")
    key = next(filter(draft.has, names), names[0])
    method = draft.peek(key)
    if method != "orpo":
        what = f"`{key}: {method}`" if method else f"no `{key}`, so that it is supervised fine-tuning"
        raise UsageError(
            f"the mlx-lm configuration is not for ORPO: it has {what}.",
            remedy="Only `train_mode: orpo` of mlx-lm-lora is converted.",
        )
    for name in names:
        if name in draft.source:
            draft.settle(name, "kept", None, IS_ORPO)
    draft.remarks.append(LOSS)
    if "train" in draft.source:
        draft.settle("train", "empty")


def _adapter(draft: Draft) -> None:
    names = ("train_type", "fine_tune_type")
    key = next(filter(draft.has, names), names[0])
    kind = draft.peek(key, "lora")
    parameters = draft.peek("lora_parameters", {})
    if not draft.has("num_layers") and "num_layers" not in draft.outcomes:
        draft.remarks.append(LAYERS if kind == "full" else f"{LAYERS} {LAYERS_OF_ADAPTER}")
    if draft.peek("num_layers") == -1:
        draft.settle("num_layers", "empty")
    if kind == "full":
        draft.settle(key, "kept", None, "All weights are trained.")
        for name in ("lora_parameters", "load_in_4bits", "load_in_8bits"):
            draft.ignore(name, f"It has no effect with `{key}: full`.")
        draft.leave_out("num_layers", LAYERS_OF_FULL)
        return
    if kind == "dora":
        draft.keep(key, "lora.use_dora", True)
    elif kind == "lora":
        draft.merge_into(key, "lora", "the `lora` section")
    for name in names:
        draft.leave_out(name, "This adapter is not supported, or another key sets it: LoRA is trained.")
    _lora_parameters(draft, parameters if isinstance(parameters, dict) else {})
    draft.leave_out("num_layers", f"It counts the last layers. {LAYERS_OF_ADAPTER}")
    for bits in (4, 8):
        draft.keep_if_true(f"load_in_{bits}bits", f"quantization.load_in_{bits}bit")


def _lora_parameters(draft: Draft, parameters: Mapping[str, Any]) -> None:
    if draft.has("lora_parameters"):
        draft.settle("lora_parameters", "kept", ("lora",), "See its keys.")
    rank = parameters.get("rank", 8)
    for name, value in parameters.items():
        key = f"lora_parameters.{name}"
        if name == "rank":
            draft.put(key, value, "lora.r")
        elif name == "scale" and isinstance(value, int | float) and isinstance(rank, int):
            draft.put(key, value, "lora.lora_alpha", f"{value:g} × rank {rank}", max(1, round(value * rank)))
        elif name == "alpha":
            draft.put(key, value, "lora.lora_alpha")
        elif name == "dropout":
            draft.put(key, value, "lora.lora_dropout")
        elif name == "keys" and value:
            draft.put(key, value, "lora.target_modules")
        else:
            draft.record(key, value, "unknown" if value else "empty")
    add_defaults(draft, {"lora.r": 8, "lora.lora_alpha": 10 * rank if isinstance(rank, int) else 80}, TOOL)
    add_defaults(draft, {"lora.target_modules": "all-linear"}, TOOL)


def _data(draft: Draft, folders: Sequence[FilePath]) -> None:
    hub = draft.peek("hf_dataset")
    entries = [entry for entry in (hub if isinstance(hub, list) else [hub]) if isinstance(entry, dict)]
    if entries and all(isinstance(_hub_path(entry), str) for entry in entries):
        _hub_datasets(draft, entries)
    elif isinstance(name := draft.peek("data"), str):
        _named_data(draft, name, folders)
    keep_columns(draft, FEATURES)
    draft.leave_out("data", "hf_dataset is set, or it is not a name.")
    draft.leave_out("hf_dataset", "It has no path.")
    draft.leave_out(
        "preference_score_feature",
        "It multiplies the log-probability of the chosen completion, which ORPO does not do.",
    )


def _named_data(draft: Draft, name: str, folders: Sequence[FilePath]) -> None:
    """Convert ``data``: a folder with train.jsonl and valid.jsonl, or a dataset of the hub."""
    folder = next((folder / name for folder in folders if (folder / name).is_dir()), None)
    if folder is None and name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/"):
        draft.keep("data", "dataset.train.path")
        draft.remarks.append(
            "mlx-lm-lora evaluates on the split valid, if the dataset has one: set dataset.eval to use it."
        )
        return
    draft.keep("data", "dataset.train.path", f"{name.rstrip('/')}/train.jsonl")
    if folder is None or (folder / "valid.jsonl").is_file():
        draft.add("dataset.eval.path", f"{name.rstrip('/')}/valid.jsonl", "data")


def _hub_path(entry: Mapping[str, Any]) -> Any:
    return entry.get("path", entry.get("name"))


def _hub_datasets(draft: Draft, entries: Sequence[Mapping[str, Any]]) -> None:
    """Convert ``hf_dataset``: one dataset of the hub, or several."""
    draft.settle("hf_dataset", "kept", ("dataset", "train"))
    for index, entry in enumerate(entries):
        place = f".{index}" if len(entries) > 1 else ""
        key = f"hf_dataset[{index}]" if len(entries) > 1 else "hf_dataset"
        train, held_out = f"dataset.train{place}", f"dataset.eval{place}"
        path = _hub_path(entry)
        for name, value in entry.items():
            if name in ("path", "name") and value == path:
                draft.put(f"{key}.{name}", value, f"{train}.path")
            elif name == "train_split":
                draft.put(f"{key}.{name}", value, f"{train}.split")
            elif name == "valid_split":
                draft.put(f"{key}.{name}", value, f"{held_out}.split")
            elif name in FEATURES and value != FEATURES[name]:
                draft.put(f"{key}.{name}", value, f"{train}.columns.{FEATURES[name]}")
                draft.add(f"{held_out}.columns.{FEATURES[name]}", value, f"{key}.{name}")
            elif name in FEATURES:
                draft.record(f"{key}.{name}", value, "kept", None, "The column is read under this name.")
            else:
                draft.record(
                    f"{key}.{name}", value, "left-out" if value else "empty", None, "It has no equivalent here."
                )
        draft.add(f"{train}.split", "train[:80%]", f"the default of {TOOL}")
        draft.add(f"{held_out}.split", "train[-10%:]", f"the default of {TOOL}")
        draft.add(f"{held_out}.path", path, "the same dataset")


def _steps(draft: Draft, batches: int) -> None:
    """Convert what mlx-lm counts in batches: a step takes ``batches`` of them."""
    note = f"a step takes {batches} batches" if batches > 1 else None

    def steps(value: Any) -> Any:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return max(1, whole // batches) if isinstance(whole, int) else value

    if draft.has("iters"):
        draft.keep("iters", "training.max_steps", steps(draft.peek("iters")), note)
        draft.ignore("epochs", "iters is set.")
    draft.keep("epochs", "training.num_train_epochs")
    draft.keep("steps_per_report", "training.logging_steps", steps(draft.peek("steps_per_report")), note)
    draft.keep("save_every", "training.save_steps", steps(draft.peek("save_every", 100)), note)
    draft.add("training.save_steps", steps(100), f"the default of {TOOL}")
    draft.add("training.save_strategy", "steps", "save_every")
    if draft.has_value("dataset.eval"):
        draft.keep("steps_per_eval", "training.eval_steps", steps(draft.peek("steps_per_eval")), note)
        draft.add("training.eval_steps", steps(200), f"the default of {TOOL}")
        draft.add("training.eval_strategy", "steps", "steps_per_eval")
    draft.leave_out("steps_per_eval", "There are no held-out pairs.")
    if isinstance(project := draft.peek("wandb"), str):
        draft.keep("wandb", "training.report_to", ["wandb"], f"set WANDB_PROJECT={project} in the environment")
    draft.leave_out("wandb", "It is not the name of a project.")


def _optimizer(draft: Draft) -> None:
    name = str(draft.peek("optimizer", "adam")).lower()
    configs = draft.peek("optimizer_config", {})
    config = configs.get(name, {}) if isinstance(configs, dict) else {}
    if name in ("adam", "adamw"):
        note = "adam has no weight decay" if name == "adam" else None
        draft.keep("optimizer", "training.optim", "adamw_torch", note)
        for key, value in config.items() if isinstance(config, dict) else ():
            path = f"optimizer_config.{name}.{key}"
            if key in ADAM:
                draft.put(path, value, f"training.{ADAM[key]}")
            elif key == "betas" and isinstance(value, list) and len(value) == 2:
                draft.put(path, value, "training.adam_beta1", "the first of betas", value[0])
                draft.add("training.adam_beta2", value[1], "the second of betas")
            else:
                draft.record(
                    path, value, "left-out" if value else "empty", None, "Adam's moments are always corrected."
                )
        draft.add("training.weight_decay", 0.0 if name == "adam" else 0.01, f"the default of {name} in MLX")
    draft.leave_out("optimizer", "This optimizer is not supported.")
    for other, value in configs.items() if isinstance(configs, dict) else ():
        if other != name or not isinstance(value, dict):
            draft.record(
                f"optimizer_config.{other}", value, "left-out" if value else "empty", None, f"The optimizer is {name}."
            )
    if draft.has("optimizer_config"):
        draft.settle("optimizer_config", "kept", None, "See its keys.")


def _schedule(draft: Draft) -> None:
    schedule = draft.peek("lr_schedule")
    if not isinstance(schedule, dict):
        draft.leave_out("lr_schedule", "It is not a mapping.")
        draft.keep("learning_rate", "training.learning_rate")
        return
    draft.settle("lr_schedule", "kept", None, "See its keys.")
    name, arguments = schedule.get("name"), schedule.get("arguments")
    arguments = arguments if isinstance(arguments, list) else []
    warmup = schedule.get("warmup") or 0
    kind, end = "constant_with_warmup" if warmup else "constant", None
    if name == "cosine_decay" and len(arguments) >= 2:
        end = arguments[2] if len(arguments) > 2 else 0
        kind = "cosine_with_min_lr" if end else "cosine"
    elif name == "linear_schedule" and len(arguments) == 3:
        end = arguments[1]
        kind = "polynomial" if end else "linear"
    for key, value in schedule.items():
        path = f"lr_schedule.{key}"
        if key == "name" and end is None:
            draft.record(
                path, value, "left-out", None, "This schedule is not supported: the learning rate is constant."
            )
            draft.add("training.lr_scheduler_type", kind, "the schedule is not supported")
        elif key == "name":
            draft.put(path, value, "training.lr_scheduler_type", None, kind)
        elif key == "arguments" and arguments:
            draft.put(path, value, "training.learning_rate", "the first argument; it ends with training", arguments[0])
        elif key == "warmup" and warmup:
            draft.put(path, value, "training.warmup_steps")
        elif key == "warmup_init":
            draft.record(path, value, "left-out" if value else "empty", None, "Warm-up starts at 0.")
        else:
            draft.record(path, value, "unknown" if value else "empty")
    if kind == "cosine_with_min_lr":
        draft.add("training.lr_scheduler_kwargs", {"min_lr": end}, "the last argument of the schedule")
    elif kind == "polynomial":
        draft.add("training.lr_scheduler_kwargs", {"lr_end": end, "power": 1.0}, "the second argument of the schedule")
    if arguments:
        draft.ignore("learning_rate", "lr_schedule has the learning rate.")
    draft.keep("learning_rate", "training.learning_rate")
