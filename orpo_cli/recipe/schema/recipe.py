"""Top level of a recipe, and the sections `engine`, `merge`, `export` and `hub`."""

from typing import Annotated, Literal

from pydantic import Field

from orpo_cli.recipe.schema.dataset import DatasetSection
from orpo_cli.recipe.schema.launch import LaunchSection
from orpo_cli.recipe.schema.lora import LoraSection
from orpo_cli.recipe.schema.model import Dtype, ModelSection, QuantizationSection
from orpo_cli.recipe.schema.section import Section
from orpo_cli.recipe.schema.training import TrainingSection

ExportFormat = Literal["safetensors", "gguf", "bnb-4bit", "bnb-8bit"]
# llama.cpp's converter writes f32 to q8_0; its quantizer makes the k-quants from them.
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"]


class EngineSection(Section):
    """How a training step is computed; the result does not depend on it."""

    fast_path: Literal["auto", "required", "off"] = Field("auto", description="Packed computation with shared prompts.")
    max_tokens_per_microbatch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Maximum number of tokens per micro-batch."
    )


class MergeSection(Section):
    """How `orpo merge` writes the merged model."""

    dtype: Literal["auto"] | Dtype = Field("auto", description="Data type of the merged weights; auto: as trained.")
    max_shard_size: str = Field("5GB", pattern=r"^\d+(\.\d+)?[KMGT]i?B$", description="Maximum size of a weights file.")


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


class HubSection(Section):
    """Repository for `training.push_to_hub`, and default of `orpo push-to-hub`."""

    repo_id: str | None = Field(None, description="Repository id: namespace/name.", examples=["my-name/llama3-8b-orpo"])
    private: bool = Field(True, description="Create new repositories as private.")


class Recipe(Section):
    """A recipe. Only model and dataset are required."""

    extends: str | None = Field(
        None,
        description="Recipe to inherit from: a path relative to this file, or the name of a shipped recipe.",
        examples=["base.yaml", "llama3-8b-qlora"],
    )
    name: str | None = Field(
        None, min_length=1, description="Name of the run; default: the name of the file.", examples=["llama3-8b-qlora"]
    )
    output_dir: str | None = Field(
        None, min_length=1, description="Run directory; default: runs/NAME.", examples=["runs/llama3-8b-qlora"]
    )
    tags: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="Labels of the run, for `orpo runs`, reports and trackers.",
        examples=[["baseline", "beta-study"]],
    )
    model: ModelSection = Field(examples=[{"model_name_or_path": "mistralai/Mistral-7B-v0.1", "dtype": "bfloat16"}])
    quantization: QuantizationSection | None = Field(
        None, examples=[{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}]
    )
    lora: LoraSection | None = Field(None, examples=[{"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}])
    dataset: DatasetSection = Field(examples=[{"train": {"path": "pairs.jsonl"}, "eval": {"test_size": 0.05}}])
    training: TrainingSection = Field(
        default_factory=TrainingSection, examples=[{"learning_rate": 8e-06, "num_train_epochs": 1}]
    )
    engine: EngineSection = Field(default_factory=EngineSection, examples=[{"fast_path": "auto"}])
    launch: LaunchSection = Field(default_factory=LaunchSection, examples=[{"num_processes": "auto"}])
    merge: MergeSection = Field(default_factory=MergeSection, examples=[{"dtype": "bfloat16", "max_shard_size": "5GB"}])
    export: ExportSection = Field(default_factory=ExportSection, examples=[{"formats": ["safetensors"]}])
    hub: HubSection = Field(default_factory=HubSection, examples=[{"repo_id": "my-name/llama3-8b-orpo"}])
