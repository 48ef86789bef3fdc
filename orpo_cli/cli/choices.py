"""Choices of repeatable options, as enumerations: typer checks and completes them. The recipe schema has the same values."""

from __future__ import annotations

from enum import StrEnum


class ExportFormatChoice(StrEnum):
    """Formats of `orpo export`."""

    safetensors = "safetensors"
    gguf = "gguf"
    bnb_4bit = "bnb-4bit"
    bnb_8bit = "bnb-8bit"


class GgufTypeChoice(StrEnum):
    """Tensor types of a GGUF file."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q6_k = "q6_k"
    q5_k_m = "q5_k_m"
    q5_k_s = "q5_k_s"
    q4_k_m = "q4_k_m"
    q4_k_s = "q4_k_s"
    q3_k_m = "q3_k_m"
    q2_k = "q2_k"


class BackendChoice(StrEnum):
    """Libraries of `orpo generate`."""

    transformers = "transformers"
    vllm = "vllm"
    llama_cpp = "llama-cpp"
