"""Recipe schema as pydantic models. It is strict: unknown keys and values of another type are errors.

Keys of a section have the names of the library that the section configures, so the Hugging Face documentation applies.
The heaviest import is pydantic, so that ``orpo validate`` starts fast.
"""

from orpo_cli.recipe.schema.dataset import DatasetSection, EvalSplit, PairRules, Source, Sources
from orpo_cli.recipe.schema.launch import FsdpConfig, LaunchSection
from orpo_cli.recipe.schema.lora import LoraSection
from orpo_cli.recipe.schema.model import TEMPLATE_SUFFIXES, Dtype, ModelSection, QuantizationSection
from orpo_cli.recipe.schema.recipe import (
    EngineSection,
    ExportFormat,
    ExportSection,
    GgufType,
    HubSection,
    MergeSection,
    Recipe,
)
from orpo_cli.recipe.schema.training import TrainingSection

__all__ = [
    "TEMPLATE_SUFFIXES",
    "DatasetSection",
    "Dtype",
    "EngineSection",
    "EvalSplit",
    "ExportFormat",
    "ExportSection",
    "FsdpConfig",
    "GgufType",
    "HubSection",
    "LaunchSection",
    "LoraSection",
    "MergeSection",
    "ModelSection",
    "PairRules",
    "QuantizationSection",
    "Recipe",
    "Source",
    "Sources",
    "TrainingSection",
]
