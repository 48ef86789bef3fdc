"""`export`: the files that `orpo export` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orpo_cli.recipe.schema.model import Dtype
from orpo_cli.recipe.schema.section import Section

ExportFormat = Literal["safetensors", "gguf", "bnb-4bit", "bnb-8bit"]
# f32 to q8_0 are made by llama.cpp's converter itself, the k-quants from its output by llama.cpp's quantizer.
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"]


class ExportSection(Section):
    """What `orpo export` writes when the command line does not say."""

    formats: list[ExportFormat] = Field(
        ["safetensors"],
        min_length=1,
        description="File formats: safetensors; gguf for llama.cpp and Ollama; bnb-4bit and bnb-8bit for checkpoints that "
        "transformers loads quantized by bitsandbytes.",
        examples=[["safetensors", "gguf"]],
    )
    dtype: Literal["auto"] | Dtype = Field(
        "auto",
        description="Type of the weights in safetensors, and of those that bitsandbytes leaves; auto: as merged.",
    )
    max_shard_size: str = Field(
        "5GB", pattern=r"^\d+(\.\d+)?[KMGT]i?B$", description="Largest file of weights, GGUF apart."
    )
    gguf_types: list[GgufType] = Field(
        ["f16"],
        min_length=1,
        description="Types of the weights in GGUF, a file each. The k-quants (q2_k to q6_k) need llama.cpp's quantizer.",
        examples=[["f16", "q4_k_m"]],
    )
