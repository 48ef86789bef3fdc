"""Offloading of activations: with checkpointing, the inputs of the layers wait in main memory for the backward pass."""

from __future__ import annotations

from typing import Any

from orpo_cli.estimate.memory import (
    EstimateInputs,
    checkpointing_options,
    trace_largest_micro_batch,
    uses_checkpointing,
    with_training_args,
)
from orpo_cli.planning.plan import CHECKPOINTING_OPTIONS, Plan

OFFLOAD: dict[str, Any] = {CHECKPOINTING_OPTIONS.partition(".")[2]: {"offload": True}}  # training arguments
PINNED_OVERHEAD = 2  # torch rounds a pinned block up to a power of two


def can_offload(plan: Plan) -> bool:
    """Whether offloading may be chosen: a checkpointed step on CUDA without sharded weights, and no arguments in the recipe."""
    if plan.device != "cuda" or plan.launch.strategy not in ("single", "ddp") or not uses_checkpointing(plan):
        return False
    return not checkpointing_options(plan) and _transformers_offloads()


def offloaded_bytes(plan: Plan, inputs: EstimateInputs) -> float:
    """Bytes of main memory that offloading takes at most, for all processes of a machine."""
    kept, left = (
        trace_largest_micro_batch(each, inputs)[0].kept for each in (plan, with_training_args(plan, **OFFLOAD))
    )
    return PINNED_OVERHEAD * max(0.0, kept - left) * plan.launch.num_processes / plan.launch.num_machines


def _transformers_offloads() -> bool:
    """Whether transformers has the argument, which its earlier versions do not."""
    import inspect

    from transformers import PreTrainedModel

    enable = getattr(PreTrainedModel, "activation_checkpointing_enable", None)
    return enable is not None and "offload" in inspect.signature(enable).parameters
