"""Rules about number types."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def bf16_and_fp16(recipe: Recipe) -> Iterator[Problem]:
    """bf16 and fp16 are two ways to compute in 16 bits."""
    if recipe.training.bf16 and recipe.training.fp16:
        yield Problem("bf16-and-fp16", "bf16 and fp16 exclude each other.", "training.fp16", remedy="Keep one.")


def float16_trained_weights(recipe: Recipe) -> Iterator[Problem]:
    """Trained weights need the range for small updates; the loss scaler refuses float16 gradients."""
    if recipe.model.dtype == "float16" and recipe.lora is None:
        yield Problem(
            "float16-weights",
            "holds the trained weights in float16: updates vanish in it, and fp16 training needs float32 weights.",
            "model.dtype",
            remedy="Use float32 (with training.fp16 or bf16 to compute in 16 bits), bfloat16, or a `lora` section.",
        )


def fp16_on_bfloat16_weights(recipe: Recipe) -> Iterator[Problem]:
    """The loss scaler of fp16 knows no bfloat16 gradients."""
    if recipe.model.dtype == "bfloat16" and recipe.lora is None and recipe.training.fp16:
        yield Problem(
            "fp16-on-bfloat16",
            "cannot train weights that are held in bfloat16: its loss scaler knows no bfloat16 gradients.",
            "training.fp16",
            remedy="Write bf16: true instead, or model.dtype: float32.",
        )


def fp16_on_cpu(recipe: Recipe) -> Iterator[Problem]:
    """float16 steps need a GPU."""
    if recipe.training.fp16 and recipe.training.use_cpu:
        yield Problem(
            "fp16-needs-gpu",
            "needs a GPU, and use_cpu is set.",
            "training.fp16",
            remedy="Remove one of the two; on a CPU, bf16 or nothing.",
        )


RULES = (
    bf16_and_fp16,
    float16_trained_weights,
    fp16_on_bfloat16_weights,
    fp16_on_cpu,
)
