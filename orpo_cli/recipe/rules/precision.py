"""Rules about the data types of weights and computation, and about quantized weights."""

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


def four_and_eight_bits(recipe: Recipe) -> Iterator[Problem]:
    """Weights are stored in 4 bits or in 8 bits."""
    quantization = recipe.quantization
    if quantization is not None and quantization.load_in_4bit and quantization.load_in_8bit:
        yield Problem(
            "4bit-and-8bit", "4 and 8 bits exclude each other.", "quantization.load_in_8bit", remedy="Keep one."
        )


def nothing_quantized(recipe: Recipe) -> Iterator[Problem]:
    """The section has no effect if neither method is enabled."""
    quantization = recipe.quantization
    if quantization is not None and not quantization.load_in_4bit and not quantization.load_in_8bit:
        yield Problem(
            "nothing-quantized",
            "enables neither load_in_4bit nor load_in_8bit.",
            "quantization",
            remedy="Set one of them to true, or remove the section.",
        )


def quantized_without_adapter(recipe: Recipe) -> Iterator[Problem]:
    """Quantized weights cannot be trained, only an adapter on them."""
    if recipe.quantization is not None and recipe.lora is None:
        yield Problem(
            "quantized-without-adapter",
            "quantized weights cannot be trained.",
            "quantization",
            remedy="Add a `lora:` section to train an adapter, or remove quantization.",
        )


def quantization_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Settings of 4-bit weights have no effect on 8-bit weights, and vice versa."""
    quantization = recipe.quantization
    if quantization is None or quantization.load_in_4bit == quantization.load_in_8bit:
        return
    other, bits = ("llm_int8_", 4) if quantization.load_in_4bit else ("bnb_4bit_", 8)
    for name in quantization.model_fields_set:
        default = type(quantization).model_fields[name].default
        both = name == "llm_int8_skip_modules"  # bitsandbytes uses it for 4-bit weights too
        if name.startswith(other) and not both and getattr(quantization, name) != default:
            yield Problem(
                "quantization-settings-unused",
                f"has no effect: the weights are stored in {bits} bits.",
                f"quantization.{name}",
                remedy="Remove it.",
                severity="warning",
            )
