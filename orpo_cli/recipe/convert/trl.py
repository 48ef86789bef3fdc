"""TRL and alignment-handbook: model, script and training arguments of their ORPO scripts in one file or command."""

from __future__ import annotations

from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared_settings import DROPOUT_IGNORED, keep_template, keep_use_reentrant, source_paths
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
DEFAULTS = {  # those that differ from what the plan would decide
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
    "loss_type loss_weights reference_free precompute_ref_log_probs precompute_ref_batch_size ref_model sync_ref_model "
    "ref_model_init_kwargs ref_model_mixup_alpha ref_model_sync_steps model_adapter_name ref_adapter_name "
    "force_use_ref_model f_divergence_type f_alpha_divergence_coef label_smoothing use_weighting discopop_tau ld_alpha "
    "rpo_alpha simpo_gamma cpo_alpha desirable_weight undesirable_weight num_generations num_iterations kl_coef "
    "num_ppo_epochs response_length missing_eos_penalty reward_model reward_model_path reward_funcs reward_weights "
    "scale_rewards use_vllm vllm_mode lmbda seq_kd teacher_model_name_or_path "
    "dataset_text_field packing packing_strategy eval_packing max_seq_length dataset_kwargs assistant_only_loss "
    "completion_only_loss center_rewards_coefficient"
)
UNSUPPORTED_KEYS = {
    "orpo-cli prepares and caches the pairs.": "preprocessing_num_workers dataset_num_proc "
    "dataset_streaming text_column",
    "Use dataset.truncation_mode: which end of a long prompt is kept.": "truncation_side",
    "System messages come from the data.": "auto_insert_empty_system_msg system_prompt",
    "It is for loading an adapter; orpo-cli trains from the base model.": "base_model_revision model_code_revision",
    "Upload with `orpo push-to-hub`.": "hub_model_revision",
    "Adapters are always for causal language models.": "lora_task_type",
    "It is a workaround for an old DDP error.": "ignore_bias_buffers",
}
TEXT_ROWS = (
    "trl trains rows of texts, not messages, without a chat template. The recipe renders them with that of the model; set "
    "`format: text` for trl's tokens."
)
IGNORED_BY_SCRIPT = "trl's examples/scripts/orpo.py accepts it but does not use it."
USED_BY_SCRIPT = "trust_remote_code"  # since trl 0.11


def convert(draft: Draft, *, ignores_model_arguments: bool = False) -> None:
    """Convert each key.

    ``ignores_model_arguments``: the script is trl's example, which uses only the model's name and ``USED_BY_SCRIPT``.

    Raises UsageError if a key belongs to another method than ORPO.
    """
    for key in OTHER_METHODS.split():
        if draft.peek(key) in (False, 0):
            draft.settle(key, "empty")
    if others := [key for key in OTHER_METHODS.split() if draft.has(key)]:
        raise UsageError(
            f"`{others[0]}` is not an argument of trl's ORPO: the configuration is for another method.",
            remedy="Only ORPO is converted. Remove the key if the configuration is for ORPO.",
        )
    draft.keep("model_name_or_path", "model.model_name_or_path")
    draft.keep_if_true("use_flash_attention_2", "model.attn_implementation", "flash_attention_2")
    for key, path in {**MODEL_PATHS, **QUANTIZATION_PATHS}.items():
        if ignores_model_arguments and key != USED_BY_SCRIPT:
            draft.ignore(key, IGNORED_BY_SCRIPT, path)
        elif key in QUANTIZATION_PATHS and not _quantizes(draft):
            draft.leave_out(key, "It has no effect without load_in_4bit or load_in_8bit.")
        else:
            draft.keep(key, path)
    keep_template(draft)
    _adapter(draft)
    _data(draft)
    if draft.tool == "trl" and draft.has_value("dataset.train"):
        draft.remarks.append(TEXT_ROWS)
    keep_use_reentrant(draft, "gradient_checkpointing_use_reentrant")
    convert_training_args(draft)
    leave_out_all(draft, UNSUPPORTED_KEYS)
    add_defaults(draft, DEFAULTS, "trl")


def _quantizes(draft: Draft) -> bool:
    keys = ("load_in_4bit", "load_in_8bit")
    return any(draft.peek(key) is True or draft.value(QUANTIZATION_PATHS[key]) is True for key in keys)


def _adapter(draft: Draft) -> None:
    if draft.peek("use_peft") is not True:
        for key in (*LORA_PATHS, "lora_dropout"):
            draft.ignore(key, "It has no effect without `use_peft: true`.")
        draft.leave_out("use_peft", "It is not true.")
        return
    draft.settle("use_peft", "kept", ("lora",), "the `lora` section")
    for key, path in LORA_PATHS.items():
        draft.keep(key, path)
    add_defaults(draft, {"lora.r": 16, "lora.lora_alpha": 32}, "trl")
    draft.add(
        "lora.target_modules", "all-linear", "trl uses peft's default for the architecture, often q_proj and v_proj"
    )
    if draft.peek("disable_dropout") is False:
        draft.keep("lora_dropout", "lora.lora_dropout")
        add_defaults(draft, {"lora.lora_dropout": 0.05}, "trl")
    draft.ignore("lora_dropout", DROPOUT_IGNORED, "lora.lora_dropout")


def _data(draft: Draft) -> None:
    evaluates = draft.peek("eval_strategy", draft.peek("evaluation_strategy", "no")) not in ("no", False)
    if draft.has("dataset_name"):
        _dataset_name(draft, evaluates)
    elif isinstance(draft.peek("dataset_mixer"), dict):
        _dataset_mixer(draft, evaluates)
    elif isinstance(draft.peek("dataset_mixture"), dict):
        _dataset_mixture(draft)
    for key in ("dataset_mixer", "dataset_mixture"):
        draft.leave_out(key, "dataset_name is set, or the value is not a mapping.")
    for key in ("dataset_config", "dataset_train_split", "dataset_test_split", "dataset_splits", "dataset_configs"):
        draft.leave_out(key, "It has no effect without a dataset.")


def _dataset_name(draft: Draft, evaluates: bool) -> None:
    name, subset = draft.peek("dataset_name"), draft.peek("dataset_config")
    draft.keep("dataset_name", "dataset.train.path")
    draft.keep("dataset_config", "dataset.train.name")
    draft.keep("dataset_train_split", "dataset.train.split")
    if not evaluates:
        draft.leave_out("dataset_test_split", "It has no effect without evaluation (eval_strategy).")
        return
    draft.add("dataset.eval.path", name, "dataset_name; eval_strategy turns evaluation on")
    if subset is not None:
        draft.add("dataset.eval.name", subset, "dataset_config")
    draft.keep("dataset_test_split", "dataset.eval.split")
    draft.add("dataset.eval.split", "test", "the default of trl")


def _dataset_mixer(draft: Draft, evaluates: bool) -> None:
    """Datasets of alignment-handbook before 2025: a fraction for each name, and splits common to all."""
    mixer = draft.peek("dataset_mixer")
    splits = [str(split) for split in draft.peek("dataset_splits", ["train", "test"])]
    subsets = draft.peek("dataset_configs", [])
    train: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    for index, name in enumerate(mixer):
        for split in splits:
            source = {"path": name, "split": split}
            if isinstance(subsets, list) and index < len(subsets):
                source["name"] = subsets[index]
            (test if "test" in split else train).append(source)
    note = "fractions below 1 select the first rows; use max_samples or a split such as train[:10%]"
    has_fractions = any(fraction != 1 for fraction in mixer.values())
    first = _put_sources(draft, "dataset.train", train)
    draft.settle("dataset_mixer", "kept", parse_path(f"{first}.path"), note if has_fractions else None)
    draft.merge_into("dataset_splits", f"{first}.split")
    draft.merge_into("dataset_configs", f"{first}.name")
    if evaluates and test:
        _put_sources(draft, "dataset.eval", test)


def _dataset_mixture(draft: Draft) -> None:
    """Datasets of alignment-handbook from 2025: sources with columns and weights, a seed, and a held-out fraction."""
    mixture = draft.peek("dataset_mixture")
    entries = [entry for entry in mixture.get("datasets", []) if isinstance(entry, dict)]
    draft.settle("dataset_mixture", "kept", parse_path("dataset.train"))
    for index, (path, entry) in enumerate(zip(source_paths("dataset.train", len(entries)), entries, strict=True)):
        for name, value in entry.items():
            key = f"dataset_mixture.datasets[{index}].{name}"
            field = {"id": "path", "config": "name", "split": "split"}.get(name)
            if field is not None and value is not None:
                draft.put(key, value, f"{path}.{field}")
            elif name == "weight":
                note = "It selects that fraction of the rows; use max_samples or a split such as train[:10%]."
                draft.record(key, value, "empty" if value in (None, 1, 1.0) else "left-out", None, note)
            elif name == "columns":
                draft.record(key, value, "left-out", None, "The columns of preference pairs are detected by name.")
            else:
                draft.record(key, value, "unknown")
    for name, value in mixture.items():
        if name == "test_split_size" and value is not None:
            draft.put("dataset_mixture.test_split_size", value, "dataset.eval.test_size")
        elif name == "seed":
            draft.put("dataset_mixture.seed", value, "dataset.shuffle_seed")
        elif name != "datasets":
            draft.record(f"dataset_mixture.{name}", value, "empty" if value is None else "unknown")


def _put_sources(draft: Draft, section: str, sources: list[dict[str, Any]]) -> str:
    """Write the sources of ``section``; returns the path of the first."""
    paths = source_paths(section, len(sources)) or [f"{section}.0"]
    for path, source in zip(paths, sources, strict=False):
        draft.values |= {parse_path(f"{path}.{name}"): value for name, value in source.items()}
    return paths[0]
