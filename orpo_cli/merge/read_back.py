"""A stored model, read back and looked over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.plan.plan import ModelPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_back(folder: Path, ends: list[int], *, like: ModelPlan, dtype: str) -> PreTrainedModel:
    """The stored model in ``dtype`` on the CPU. Raises RunError where its folder is not what it should be."""
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource

    model = load_base(ModelSource(like.stored_in(str(folder), dtype=dtype, device_map=None)), None, "cpu")
    problems = []
    if getattr(model.config, "quantization_config", None) is not None:
        problems.append("config.json still speaks of quantization")
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    if ends and set(found if isinstance(found, list) else [found]) != set(ends):
        problems.append(f"generation_config.json has the end tokens {found}, not {ends}")
    if not any(folder.glob("*.safetensors")):
        problems.append("no safetensors file was written")
    if problems:
        raise RunError(f"the stored model is not whole: {'; '.join(problems)}.", remedy="Please report it.")
    return model
