"""The top level of a recipe, and its small sections."""

from typing import Annotated, Literal

from pydantic import Field

from orpo_cli.recipe.schema.dataset import DatasetSection
from orpo_cli.recipe.schema.export import ExportSection
from orpo_cli.recipe.schema.lora import LoraSection
from orpo_cli.recipe.schema.model import Dtype, ModelSection, QuantizationSection
from orpo_cli.recipe.schema.section import Section
from orpo_cli.recipe.schema.training import TrainingSection


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


class HubSection(Section):
    """Where `orpo push-to-hub` goes when the command line does not say, and `training.push_to_hub`."""

    repo_id: str | None = Field(None, description="namespace/name on the hub.", examples=["my-name/llama3-8b-orpo"])
    private: bool = Field(True, description="Make a new repository private.")


class Recipe(Section):
    """A whole recipe. Only model and dataset are required."""

    extends: str | None = Field(
        None,
        description="Another recipe to start from: a path as seen from this file, or a shipped recipe's name.",
        examples=["base.yaml", "llama3-8b-qlora"],
    )
    name: str | None = Field(
        None, min_length=1, description="Name of the run; default: the file's name.", examples=["llama3-8b-qlora"]
    )
    output_dir: str | None = Field(
        None, min_length=1, description="Run directory; default: runs/NAME.", examples=["runs/llama3-8b-qlora"]
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
