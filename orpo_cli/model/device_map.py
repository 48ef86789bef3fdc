"""Where a model's layers lie when one process has several GPUs (``model.device_map``, ``model.max_memory``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def device_map_options(section: ModelSection) -> dict[str, Any]:
    """What ``from_pretrained`` takes for it. GPUs are numbers there, and words in a recipe."""
    memory = {_device(name): most for name, most in (section.max_memory or {}).items()}
    return {"device_map": section.device_map, **({"max_memory": memory} if memory else {})}


def _device(name: str) -> int | str:
    return int(name) if name.isdigit() else name


@contextmanager
def explain_placement_errors(section: ModelSection) -> Iterator[None]:
    """Say in a recipe's words why accelerate cannot place the model."""
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
    """Raise MachineError where weights of a model on GPUs were left on the CPU or the disk: they could not be trained."""
    places = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()}
    if "disk" in places or ("cpu" in places and device != "cpu"):
        raise _does_not_fit(section)


def _does_not_fit(section: ModelSection) -> MachineError:
    allowed = f" within {section.max_memory}" if section.max_memory else ""
    return MachineError(
        f"{section.model_name_or_path} does not fit into the memory of the devices{allowed}: model.device_map would leave "
        "part of it where it cannot train.",
        remedy="Load it in 4 bits (quantization.load_in_4bit), raise model.max_memory, or choose a smaller model.",
    )
