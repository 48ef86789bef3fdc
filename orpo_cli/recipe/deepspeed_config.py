"""DeepSpeed's configuration in a recipe: what `launch.deepspeed_config`, a mapping or the content of its file, may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orpo_cli.errors import Problem

# Settings of DeepSpeed's JSON that are training arguments; `auto` takes the value of the argument.
DEEPSPEED_TRAINING_ARGS: Mapping[str, str] = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "bf16",
    "fp16.enabled": "fp16",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "activation_checkpointing": "gradient_checkpointing",
}


def deepspeed_problems(
    config: Mapping[str, Any], *, quantized: bool, loads_best_model: bool = False, file: str = ""
) -> Iterator[Problem]:
    """Problems of a configuration of DeepSpeed; ``file`` has it if it is not in the recipe.

    ``loads_best_model``: a model without an adapter, at the end of the training.
    """
    path, where = "launch.deepspeed_config", f"in {file}: " if file else ""

    def problem(code: str, key: str, message: str, remedy: str) -> Problem:
        if file:
            return Problem(code, f"{where}{message}", path, remedy=remedy)
        return Problem(code, message, f"{path}.{key}", remedy=remedy)

    for key, argument in DEEPSPEED_TRAINING_ARGS.items():
        if _at(config, key) not in (None, "auto", {}, False):
            remedy = f"Remove it or write auto, and set training.{argument}."
            yield problem("deepspeed-config", key, f"`{key}` is a training argument.", remedy)
    if _at(config, "train_batch_size") not in (None, "auto"):
        message = (
            "`train_batch_size` is the number of pairs in a step, which training arguments and num_processes determine."
        )
        yield problem("deepspeed-config", "train_batch_size", message, "Remove it, or write auto.")
    stage = _at(config, "zero_optimization.stage")
    if isinstance(stage, bool) or stage not in (1, 2, 3):
        message = f"`zero_optimization.stage` {'is missing' if stage is None else f'is {stage}'}."
        remedy = "Use 1, 2 or 3; without sharding, use strategy: ddp."
        if stage is None:
            yield Problem("deepspeed-config", f"{where}{message}", path, remedy=remedy)
        else:
            yield problem("deepspeed-config", "zero_optimization.stage", message, remedy)
    if stage == 3 and quantized:
        message = "ZeRO-3 shards the weights, and it cannot shard quantized ones."
        remedy = "Use stage 2, or strategy: fsdp with bnb_4bit_quant_storage: bfloat16."
        yield problem("zero3-quantization", "zero_optimization.stage", message, remedy)
    if stage == 3 and loads_best_model:
        message = "ZeRO-3 shards the weights, and load_best_model_at_end would gather all of them on each device."
        remedy = "Use stage 2, strategy: fsdp, or save_strategy: best, which keeps the best checkpoint."
        yield problem("zero3-best-model", "zero_optimization.stage", message, remedy)


def _at(config: Mapping[str, Any], path: str) -> Any:
    here: Any = config
    for part in path.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here
