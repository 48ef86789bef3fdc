"""Rules about quantized weights."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe


def four_and_eight_bits(recipe: Recipe) -> Iterator[Problem]:
    """Weights are held in 4 bits or in 8."""
    quantization = recipe.quantization
    if quantization is not None and quantization.load_in_4bit and quantization.load_in_8bit:
        yield Problem(
            "4bit-and-8bit", "4 and 8 bits exclude each other.", "quantization.load_in_8bit", remedy="Keep one."
        )


def nothing_quantized(recipe: Recipe) -> Iterator[Problem]:
    """A quantization section that quantizes nothing is a mistake."""
    quantization = recipe.quantization
    if quantization is not None and not quantization.load_in_4bit and not quantization.load_in_8bit:
        yield Problem(
            "nothing-quantized",
            "quantizes nothing.",
            "quantization",
            remedy="Set load_in_4bit or load_in_8bit to true, or leave the section out.",
        )


def quantized_without_adapter(recipe: Recipe) -> Iterator[Problem]:
    """Quantized weights are not trained; an adapter on them is."""
    if recipe.quantization is not None and recipe.lora is None:
        yield Problem(
            "quantized-without-adapter",
            "quantized weights cannot be trained.",
            "quantization",
            remedy="Add a `lora:` section to train an adapter on them, or leave quantization out.",
        )


def quantization_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """What is set for 4 bits does nothing in 8, and the other way round."""
    quantization = recipe.quantization
    if quantization is None or quantization.load_in_4bit == quantization.load_in_8bit:
        return
    other, bits = ("llm_int8_", 4) if quantization.load_in_4bit else ("bnb_4bit_", 8)
    for name in quantization.model_fields_set:
        default = type(quantization).model_fields[name].default
        both = name == "llm_int8_skip_modules"  # bitsandbytes reads it in 4 bits, too
        if name.startswith(other) and not both and getattr(quantization, name) != default:
            yield Problem(
                "quantization-settings-unused",
                f"would do nothing: the weights are held in {bits} bits.",
                f"quantization.{name}",
                remedy="Remove it.",
                severity="warning",
            )


RULES = (four_and_eight_bits, nothing_quantized, quantized_without_adapter, quantization_settings_unused)
