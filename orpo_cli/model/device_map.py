"""Placement of layers on several GPUs of one process (``model.device_map``, ``model.max_memory``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def device_map_options(section: ModelSection) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained``, where GPUs are integers; in a recipe they are strings."""
    memory = {int(name) if name.isdigit() else name: most for name, most in (section.max_memory or {}).items()}
    return {"device_map": section.device_map, **({"max_memory": memory} if memory else {})}


@contextmanager
def explain_placement_errors(section: ModelSection) -> Iterator[None]:
    """Turn errors of accelerate's placement into errors that name the setting of the recipe."""
    try:
        yield
    except (ValueError, KeyError, RuntimeError, AssertionError) as error:
        text = str(error)
        if section.device_map is None or "trust_remote_code" in text:
            raise
        if "offload" in text or "dispatched on the CPU" in text:
            raise _does_not_fit(section) from error
        raise UsageError(
            f"model.device_map: {section.model_name_or_path} cannot be placed: {text.strip().splitlines()[0]}",
            remedy="Use auto, or give every part of the model a device that is there.",
        ) from error


def refuse_offloaded(model: PreTrainedModel, section: ModelSection, device: str) -> None:
    """Raise MachineError if weights of a model on GPUs were left on CPU or disk, where they cannot be trained."""
    devices = {str(each) for each in (getattr(model, "hf_device_map", None) or {}).values()}
    if "disk" in devices or ("cpu" in devices and device != "cpu"):
        raise _does_not_fit(section)


def _does_not_fit(section: ModelSection) -> MachineError:
    allowed = f" within {section.max_memory}" if section.max_memory else ""
    return MachineError(
        f"{section.model_name_or_path} does not fit into the memory of the devices{allowed}: model.device_map would leave "
        "part of it where it cannot train.",
        remedy="Load it in 4 bits (quantization.load_in_4bit), raise model.max_memory, or choose a smaller model.",
    )
