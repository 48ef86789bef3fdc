"""Rules about the data types of weights and computation."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def bf16_and_fp16(recipe: Recipe) -> Iterator[Problem]:
    """bf16 and fp16 are two types for the same computation."""
    if recipe.training.bf16 and recipe.training.fp16:
        yield Problem("bf16-and-fp16", "bf16 and fp16 exclude each other.", "training.fp16", remedy="Keep one.")


def float16_trained_weights(recipe: Recipe) -> Iterator[Problem]:
    """Trained weights need more precision than float16 has, and the loss scaler refuses float16 gradients."""
    if recipe.model.dtype == "float16" and recipe.lora is None:
        yield Problem(
            "float16-weights",
            "stores the trained weights in float16: small updates are lost, and training with fp16 needs float32 weights.",
            "model.dtype",
            remedy="Use float32 (with training.fp16 or bf16 to compute in 16 bits), bfloat16, or a `lora` section.",
        )


def fp16_on_bfloat16_weights(recipe: Recipe) -> Iterator[Problem]:
    """The loss scaler of fp16 does not support bfloat16 gradients."""
    if recipe.model.dtype == "bfloat16" and recipe.lora is None and recipe.training.fp16:
        yield Problem(
            "fp16-on-bfloat16",
            "cannot train bfloat16 weights: its loss scaler does not support bfloat16 gradients.",
            "training.fp16",
            remedy="Write bf16: true instead, or model.dtype: float32.",
        )


def fp16_on_cpu(recipe: Recipe) -> Iterator[Problem]:
    """fp16 needs a GPU."""
    if recipe.training.fp16 and recipe.training.use_cpu:
        yield Problem(
            "fp16-needs-gpu",
            "needs a GPU, but use_cpu is true.",
            "training.fp16",
            remedy="Remove one of the two; a CPU supports bf16.",
        )


RULES = (
    bf16_and_fp16,
    float16_trained_weights,
    fp16_on_bfloat16_weights,
    fp16_on_cpu,
)
