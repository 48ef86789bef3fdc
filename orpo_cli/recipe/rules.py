"""Rules that no single value can break: what does not go together, and what would do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import EvalSplit, Recipe

# Training arguments that another part of the recipe or of the command line decides.
DECIDED_ELSEWHERE = {
    "model_init_kwargs": "Use the `model` section.",
    "trust_remote_code": "Write `model.trust_remote_code`.",
    "resume_from_checkpoint": "Use `orpo train RECIPE --resume auto` or `--resume PATH`.",
    "do_train": "Use `orpo train`.",
    "do_eval": "Use `eval_strategy`.",
    "do_predict": "Use `orpo eval`.",
    "remove_unused_columns": "The columns are this tool's own.",
    "disable_tqdm": "Use `--quiet`.",
    "is_encoder_decoder": "It is read from the model.",
    "max_completion_length": "It only concerns encoder-decoder models, which ORPO here does not train.",
    "local_rank": "The launcher sets it.",
    "dataset_num_proc": "The data is prepared in batches, in this process.",
    "hub_token": "A token never stands in a recipe: set HF_TOKEN or run `hf auth login`.",
    "push_to_hub": "Use `orpo push-to-hub` after training.",
    "hub_model_id": "Write `hub.repo_id`.",
    "generate_during_eval": "Use `orpo generate --compare`.",
    "label_names": "They are known.",
    "auto_find_batch_size": "It would change the step; set per_device_train_batch_size.",
    "label_smoothing_factor": "trl's ORPO loss has none.",
    "padding_value": "It is the tokenizer's pad token.",
    "use_liger_kernel": "It has no fused ORPO loss, and trl's trainer would not use it.",
    "logging_nan_inf_filter": "A loss that is not finite stops the run instead of being hidden.",
    "deepspeed": "Several processes are not supported yet.",
    "fsdp": "Several processes are not supported yet.",
    "fsdp_config": "Several processes are not supported yet.",
    "parallelism_config": "Several processes are not supported yet.",
}
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def broken_rules(recipe: Recipe) -> Iterator[Problem]:
    """Every rule that ``recipe`` breaks; paths are dotted names, without file and line."""
    yield from _training(recipe)
    yield from _quantization(recipe)
    yield from _evaluation(recipe)
    yield from _not_yet(recipe)
    for path in _secrets(recipe.model_dump(), ""):
        yield Problem(
            "secret", "holds a hub token.", path, remedy="Remove it and revoke it; set HF_TOKEN or run `hf auth login`."
        )


def _training(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    for name, remedy in DECIDED_ELSEWHERE.items():
        if getattr(training, name) is not None:
            yield Problem("decided-elsewhere", "is not set here.", f"training.{name}", remedy=remedy)
    if training.bf16 and training.fp16:
        yield Problem("precision", "bf16 and fp16 exclude each other.", "training.fp16", remedy="Keep one.")
    if training.max_length is not None and recipe.dataset.max_prompt_length is not None:
        if recipe.dataset.max_prompt_length >= training.max_length:
            yield Problem(
                "lengths",
                f"is {recipe.dataset.max_prompt_length}, which leaves no room for an answer in training.max_length = "
                f"{training.max_length}.",
                "dataset.max_prompt_length",
                remedy="Make it smaller than training.max_length.",
            )
    if recipe.lora is not None and recipe.lora.lora_dropout > 0 and training.disable_dropout:
        yield Problem(
            "dropout",
            f"would do nothing: training.disable_dropout also sets lora_dropout = {recipe.lora.lora_dropout} to zero.",
            "lora.lora_dropout",
            remedy="Remove training.disable_dropout, or set lora_dropout to 0.",
        )
    if recipe.lora is not None and recipe.lora.layers_pattern and recipe.lora.layers_to_transform is None:
        yield Problem(
            "layers", "would do nothing without layers_to_transform.", "lora.layers_pattern", remedy="Add it."
        )
    if recipe.lora is not None and recipe.lora.layers_to_transform is not None:
        if recipe.lora.target_modules == "all-linear":
            yield Problem(
                "layers",
                "needs target_modules as a list of names: peft ignores it beside `all-linear`.",
                "lora.layers_to_transform",
                remedy="List the modules, such as [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj].",
            )


def _quantization(recipe: Recipe) -> Iterator[Problem]:
    quantization = recipe.quantization
    if quantization is None:
        return
    if quantization.load_in_4bit and quantization.load_in_8bit:
        yield Problem(
            "quantization", "4 and 8 bits exclude each other.", "quantization.load_in_8bit", remedy="Keep one."
        )
    if not quantization.load_in_4bit and not quantization.load_in_8bit:
        yield Problem(
            "quantization",
            "quantizes nothing.",
            "quantization",
            remedy="Set load_in_4bit or load_in_8bit to true, or leave the section out.",
        )
    if recipe.lora is None:
        yield Problem(
            "quantization",
            "quantized weights cannot be trained.",
            "quantization",
            remedy="Add a `lora:` section to train an adapter on them, or leave quantization out.",
        )


def _evaluation(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    if recipe.dataset.eval is None and training.eval_strategy in ("steps", "epoch"):
        yield Problem(
            "no-eval-data",
            "asks for evaluation, but dataset.eval names no pairs.",
            "training.eval_strategy",
            remedy="Add `eval: {test_size: 0.05}` to `dataset`, or remove eval_strategy.",
        )
    if training.load_best_model_at_end:
        strategies = (training.eval_strategy, training.save_strategy)
        if strategies[1] == "best" or (strategies[0] == strategies[1] and strategies[0] in ("steps", "epoch")):
            return
        yield Problem(
            "best-model",
            f"needs eval_strategy and save_strategy to be the same, but they are {strategies[0] or 'not given'} and "
            f"{strategies[1] or 'not given'}.",
            "training.load_best_model_at_end",
            remedy="Set both to `steps` or both to `epoch`.",
        )
    split = recipe.dataset.eval
    if isinstance(split, EvalSplit) and split.test_size >= 1 and split.test_size != int(split.test_size):
        yield Problem(
            "test-size",
            "is a share below 1 or a whole number of pairs.",
            "dataset.eval.test_size",
            remedy="Correct it.",
        )


def _not_yet(recipe: Recipe) -> Iterator[Problem]:
    """What the language has names for and this version cannot do: refused, because it would do nothing."""
    version = "is not supported in this version."
    if recipe.engine.fast_path == "required":
        yield Problem("not-yet", version, "engine.fast_path", remedy="Use auto or off.")
    if recipe.engine.max_tokens_per_microbatch != "auto":
        yield Problem("not-yet", version, "engine.max_tokens_per_microbatch", remedy="Remove it.")
    if recipe.launch.num_processes not in ("auto", 1):
        yield Problem("not-yet", version, "launch.num_processes", remedy="Use 1 or auto.")
    if recipe.launch.strategy not in ("auto", "single"):
        yield Problem("not-yet", version, "launch.strategy", remedy="Use single or auto.")
    if recipe.export.formats != ["safetensors"]:
        yield Problem("not-yet", "gguf " + version, "export.formats", remedy="Use [safetensors].")
    if recipe.extends is not None:
        yield Problem("not-yet", version, "extends", remedy="Copy what you need into this recipe.")
    for index, source in enumerate(recipe.dataset.train):
        if source.weight != 1.0:
            place = f"dataset.train[{index}].weight" if len(recipe.dataset.train) > 1 else "dataset.train.weight"
            yield Problem("not-yet", version, place, remedy="Use max_samples to balance sources.")


def _secrets(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _secrets(inner, f"{path}[{index}]")
    elif isinstance(value, str) and _TOKEN.search(value):
        yield path
