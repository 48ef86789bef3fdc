"""What a recipe may say. Strict: an unknown key or a value of another type is an error.

Names inside a section are the names of the library that the section configures, so the Hugging Face documentation
applies. This module imports pydantic and nothing heavier; ``orpo validate`` must start at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orpo_cli.recipe.dataset_section import DatasetSection, EvalSplit, Source, Sources
from orpo_cli.recipe.lora_section import LoraSection
from orpo_cli.recipe.model_section import Dtype, ModelSection, QuantizationSection
from orpo_cli.recipe.section import Section
from orpo_cli.recipe.training_section import TrainingSection

__all__ = [
    "DatasetSection",
    "Dtype",
    "EngineSection",
    "EvalSplit",
    "ExportSection",
    "HubSection",
    "LaunchSection",
    "LoraSection",
    "MergeSection",
    "ModelSection",
    "QuantizationSection",
    "Recipe",
    "Source",
    "Sources",
    "TrainingSection",
]


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
    training: TrainingSection = Field(default_factory=TrainingSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    launch: LaunchSection = Field(default_factory=LaunchSection)
    merge: MergeSection = Field(default_factory=MergeSection)
    export: ExportSection = Field(default_factory=ExportSection)
    hub: HubSection = Field(default_factory=HubSection)
