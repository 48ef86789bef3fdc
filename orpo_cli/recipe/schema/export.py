"""`export`: formats and types of the files that `orpo export` writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orpo_cli.recipe.schema.model import Dtype
from orpo_cli.recipe.schema.section import Section

ExportFormat = Literal["safetensors", "gguf", "bnb-4bit", "bnb-8bit"]
# llama.cpp's converter writes f32 to q8_0; its quantizer makes the k-quants from them.
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"]


class ExportSection(Section):
    """Defaults of `orpo export`; options of the command line override them."""

    formats: list[ExportFormat] = Field(
        ["safetensors"],
        min_length=1,
        description="File formats: safetensors; gguf for llama.cpp and Ollama; bnb-4bit and bnb-8bit for checkpoints that are "
        "quantized by bitsandbytes.",
        examples=[["safetensors", "gguf"]],
    )
    dtype: Literal["auto"] | Dtype = Field(
        "auto",
        description="Data type of weights in safetensors and of weights that bitsandbytes does not quantize; auto: as merged.",
    )
    max_shard_size: str = Field(
        "5GB", pattern=r"^\d+(\.\d+)?[KMGT]i?B$", description="Maximum size of a weights file, except GGUF."
    )
    gguf_types: list[GgufType] = Field(
        ["f16"],
        min_length=1,
        description="Data types of GGUF files, one file each. The k-quants (q2_k to q6_k) need llama.cpp's quantizer.",
        examples=[["f16", "q4_k_m"]],
    )
