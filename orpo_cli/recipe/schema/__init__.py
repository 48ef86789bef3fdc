"""What a recipe may say. Strict: an unknown key or a value of another type is an error.

Names inside a section are the names of the library that the section configures, so the Hugging Face documentation
applies. This module imports pydantic and nothing heavier; ``orpo validate`` must start at once.
"""

from orpo_cli.recipe.schema.dataset import DatasetSection, EvalSplit, PairRules, Source, Sources
from orpo_cli.recipe.schema.export import ExportFormat, ExportSection, GgufType
from orpo_cli.recipe.schema.lora import LoraSection
from orpo_cli.recipe.schema.model import Dtype, ModelSection, QuantizationSection
from orpo_cli.recipe.schema.recipe import EngineSection, HubSection, LaunchSection, MergeSection, Recipe
from orpo_cli.recipe.schema.training import TrainingSection

__all__ = [
    "DatasetSection",
    "Dtype",
    "EngineSection",
    "EvalSplit",
    "ExportFormat",
    "ExportSection",
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
