"""A configuration of TRL's or alignment-handbook's ORPO script as a recipe: model, script and training arguments side by side."""

from __future__ import annotations

from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared import DROPOUT_IGNORED, keep_template
from orpo_cli.recipe.convert.training_args import add_defaults, convert_training_args, leave_out_all
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

MODEL_PATHS = {
    "model_revision": "model.model_revision",
    "torch_dtype": "model.dtype",
    "dtype": "model.dtype",
    "trust_remote_code": "model.trust_remote_code",
    "attn_implementation": "model.attn_implementation",
    "tokenizer_name_or_path": "model.tokenizer_name_or_path",
}
QUANTIZATION_PATHS = {
    "load_in_8bit": "quantization.load_in_8bit",
    "load_in_4bit": "quantization.load_in_4bit",
    "bnb_4bit_quant_type": "quantization.bnb_4bit_quant_type",
    "use_bnb_nested_quant": "quantization.bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage": "quantization.bnb_4bit_quant_storage",
}
LORA_PATHS = {
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_target_modules": "lora.target_modules",
    "lora_target_parameters": "lora.target_parameters",
    "lora_modules_to_save": "lora.modules_to_save",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
}
DEFAULTS = {  # where the plan would decide otherwise
    f"training.{name}": LIBRARY_DEFAULTS[name]
    for name in (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "lr_scheduler_type",
        "warmup_steps",
        "max_length",
        "beta",
    )
}
OTHER_METHODS = (
    "loss_type reference_free precompute_ref_log_probs ref_model sync_ref_model rpo_alpha simpo_gamma cpo_alpha "
    "desirable_weight undesirable_weight num_generations reward_model reward_model_path reward_funcs "
    "dataset_text_field packing max_seq_length dataset_kwargs center_rewards_coefficient"
)
UNSUPPORTED_KEYS = {
    "The pairs are prepared by this tool, and kept prepared.": "preprocessing_num_workers dataset_num_proc "
    "dataset_streaming text_column",
    "Write it as dataset.truncation_mode: which end of a long prompt is kept.": "truncation_side",
    "System messages are those of the data.": "auto_insert_empty_system_msg system_prompt",
    "It says how to load an adapter; training goes on from the base model.": "base_model_revision model_code_revision",
    "Uploading is a command of its own: `orpo push-to-hub`.": "hub_model_revision",
    "Adapters here are for language models.": "lora_task_type",
    "It works around an old fault of DDP.": "ignore_bias_buffers",
}
IGNORED_BY_SCRIPT = "trl's examples/scripts/orpo.py takes it and does not use it."


def convert(draft: Draft, *, ignores_model_arguments: bool = False) -> None:
    """Deal with every key. ``dead_model_arguments``: the script is trl's example, which uses the model's name alone.

    Raises UsageError where a key tells that the method is not ORPO.
    """
    if others := [key for key in OTHER_METHODS.split() if draft.has(key)]:
        raise UsageError(
            f"`{others[0]}` is no argument of trl's ORPO: this is a configuration for another method.",
            remedy="Only ORPO is converted. Remove the key if it is one for ORPO.",
        )
    draft.keep("model_name_or_path", "model.model_name_or_path")
    if draft.peek("use_flash_attention_2") is True:
        draft.keep("use_flash_attention_2", "model.attn_implementation", "flash_attention_2")
    draft.leave_out("use_flash_attention_2", "off")
    for key, path in {**MODEL_PATHS, **QUANTIZATION_PATHS}.items():
        if ignores_model_arguments:
            draft.ignore(key, IGNORED_BY_SCRIPT, path)
        elif key in QUANTIZATION_PATHS and not _quantizes(draft):
            draft.leave_out(key, "It does nothing without load_in_4bit or load_in_8bit.")
        else:
            draft.keep(key, path)
    keep_template(draft)
    _adapter(draft)
    _data(draft)
    reentrant = draft.peek("gradient_checkpointing_use_reentrant")
    if reentrant is not None:
        value = {"use_reentrant": reentrant}
        draft.keep("gradient_checkpointing_use_reentrant", "training.gradient_checkpointing_kwargs", value)
    convert_training_args(draft)
    leave_out_all(draft, UNSUPPORTED_KEYS)
    add_defaults(draft, DEFAULTS, "trl")


def _quantizes(draft: Draft) -> bool:
    wanted = ("load_in_4bit", "load_in_8bit")
    return any(
        draft.peek(key) is True or draft.values.get(parse_path(QUANTIZATION_PATHS[key])) is True for key in wanted
    )


def _adapter(draft: Draft) -> None:
    if draft.peek("use_peft") is not True:
        for key in (*LORA_PATHS, "lora_dropout"):
            draft.ignore(key, "It does nothing without `use_peft: true`.")
        draft.leave_out("use_peft", "off")
        return
    draft.settle("use_peft", "kept", ("lora",), "the `lora` section")
    for key, path in LORA_PATHS.items():
        draft.keep(key, path)
    draft.add("lora.r", 16, "the default of trl")
    draft.add("lora.lora_alpha", 32, "the default of trl")
    draft.add("lora.target_modules", "all-linear", "there peft's choice for the architecture, often q_proj and v_proj")
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")


def _data(draft: Draft) -> None:
    evaluates = draft.peek("eval_strategy", draft.peek("evaluation_strategy", "no")) not in ("no", False)
    if draft.has("dataset_name"):
        _named(draft, evaluates)
    elif isinstance(draft.peek("dataset_mixer"), dict):
        _mixer(draft, evaluates)
    elif isinstance(draft.peek("dataset_mixture"), dict):
        _mixture(draft)
    for key in ("dataset_mixer", "dataset_mixture"):
        draft.leave_out(key, "dataset_name is given, or it is no mapping.")
    for key in ("dataset_config", "dataset_train_split", "dataset_test_split", "dataset_splits", "dataset_configs"):
        draft.leave_out(key, "It goes with a dataset that is not named.")


def _named(draft: Draft, evaluates: bool) -> None:
    name, subset = draft.peek("dataset_name"), draft.peek("dataset_config")
    draft.keep("dataset_name", "dataset.train.path")
    draft.keep("dataset_config", "dataset.train.name")
    draft.keep("dataset_train_split", "dataset.train.split")
    if not evaluates:
        draft.leave_out("dataset_test_split", "It is read where eval_strategy asks for evaluation, and it does not.")
        return
    draft.add("dataset.eval.path", name, "dataset_name, as eval_strategy asks for evaluation")
    if subset is not None:
        draft.add("dataset.eval.name", subset, "dataset_config")
    draft.keep("dataset_test_split", "dataset.eval.split")
    draft.add("dataset.eval.split", "test", "the default of trl")


def _mixer(draft: Draft, evaluates: bool) -> None:
    """alignment-handbook before 2025: dataset and share by name, and splits that serve all of them."""
    mixer = draft.peek("dataset_mixer")
    splits = [str(split) for split in draft.peek("dataset_splits", ["train", "test"])]
    subsets = draft.peek("dataset_configs", [])
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for index, name in enumerate(mixer):
        for split in splits:
            source = {"path": name, "split": split}
            if isinstance(subsets, list) and index < len(subsets):
                source["name"] = subsets[index]
            parts["test" if "test" in split else "train"].append(source)
    shares = {name: share for name, share in mixer.items() if share != 1}
    note = (
        "shares below 1 take the first rows there; use max_samples or a split such as train[:10%]" if shares else None
    )
    _put_sources(draft, "dataset_mixer", "dataset.train", parts["train"], note)
    draft.join("dataset_splits", "dataset.train.split" if len(parts["train"]) == 1 else "dataset.train.0.split")
    draft.join("dataset_configs", "dataset.train.name" if len(parts["train"]) == 1 else "dataset.train.0.name")
    if evaluates and parts["test"]:
        _put_sources(draft, "dataset_splits", "dataset.eval", parts["test"], None)


def _mixture(draft: Draft) -> None:
    """alignment-handbook of 2025: sources with columns and weights, a seed, and a share to hold out."""
    mixture = draft.peek("dataset_mixture")
    listed = [each for each in mixture.get("datasets", []) if isinstance(each, dict)]
    draft.settle("dataset_mixture", "kept", parse_path("dataset.train"))
    for index, entry in enumerate(listed):
        place = "dataset.train" if len(listed) == 1 else f"dataset.train.{index}"
        for name, value in entry.items():
            key = f"dataset_mixture.datasets[{index}].{name}"
            ours = {"id": "path", "config": "name", "split": "split"}.get(name)
            if ours is not None and value is not None:
                draft.put(key, value, f"{place}.{ours}")
            elif name == "weight":
                note = "That share of the rows is taken there; use max_samples or a split such as train[:10%]."
                draft.record(key, value, "empty" if value in (None, 1, 1.0) else "left-out", None, note)
            elif name == "columns":
                draft.record(key, value, "left-out", None, "The columns of preference pairs are taken by their names.")
            else:
                draft.record(key, value, "unknown")
    for name, value in mixture.items():
        if name == "test_split_size" and value is not None:
            draft.put("dataset_mixture.test_split_size", value, "dataset.eval.test_size")
        elif name == "seed":
            draft.put("dataset_mixture.seed", value, "dataset.shuffle_seed")
        elif name != "datasets":
            draft.record(f"dataset_mixture.{name}", value, "empty" if value is None else "unknown")


def _put_sources(draft: Draft, key: str, path: str, sources: list[dict[str, Any]], note: str | None) -> None:
    for index, source in enumerate(sources):
        place = path if len(sources) == 1 else f"{path}.{index}"
        for name, value in source.items():
            draft.values[parse_path(f"{place}.{name}")] = value
    if key in draft.source:
        first = f"{path}.path" if len(sources) == 1 else f"{path}.0.path"
        draft.settle(key, "kept", parse_path(first), note)
