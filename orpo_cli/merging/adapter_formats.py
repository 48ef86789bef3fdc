"""Adapter formats: adapters of other tools and savers, rewritten with the names that PEFT gives their weights.

PEFT reads only its own names and ignores others with at most a warning. Other names come from wrappers (torch.compile, FSDP, DDP),
from a state dict that was saved without PEFT, from another nesting of the same layers, and from mlx-lm. PEFT itself saves layers
twice if training extended the vocabulary.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import UsageError
from orpo_cli.merging.mlx_adapter import is_mlx_adapter, mlx_names, write_mlx_config
from orpo_cli.merging.peft_adapters import Adapter
from orpo_cli.merging.tensor_files import SafetensorsFile, SafetensorsWriter, TensorSpec, TorchFile

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ADAPTER_NAME = re.compile(
    r"(\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.(?!(?:weight|bias)$)[^.]+)?(\.weight|\.bias)?$"
)
_SAVED_IN_FULL = re.compile(r"(.+)\.modules_to_save\.(.+)")
_BEFORE_TRAINING = ".original_module."
_TRAINED_TOKENS = ".token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class BaseNames:
    """Names of the base: of its layers (modules without inner modules) and parameters, and of its embedding and head."""

    layers: frozenset[str]
    parameters: frozenset[str]
    embedding: str
    head: str | None
    tied: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> BaseNames:
        """The names of a model."""
        modules = dict(model.named_modules())
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        return cls(
            layers=frozenset(name for name, module in modules.items() if name and not any(module.children())),
            parameters=frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)),
            embedding=next(name for name, module in modules.items() if module is embedding),
            head=next((name for name, module in modules.items() if head is not None and module is head), None),
            tied=bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False)),
        )

    def contain(self, name: str) -> bool:
        """Whether a weight, named without PREFIX, belongs to a layer of the base or is one of its parameters."""
        parts = name.split(".")
        return name in self.parameters or any(".".join(parts[:end]) in self.layers for end in range(1, len(parts)))


def standard_adapter(
    adapter: Adapter, base: PreTrainedModel, folder: Path, note: Callable[[str], None] = lambda _: None
) -> Adapter:
    """``adapter`` as it is if its names are PEFT's, else with a copy in ``folder`` that has them.

    ``note`` gets a message about a replaced prefix. Raises UsageError for weights that are there twice with different values.
    """
    file = open_weights(adapter.folder)
    names = BaseNames.of(base)
    mlx = is_mlx_adapter(adapter.folder)
    if mlx:
        standard = mlx_names(adapter.folder, file.specs)
    else:
        standard = {name: _standard_name(name, names) for name in file.specs}
    standard = _replace_prefix(standard, names, adapter, note)
    sources = _sources(standard, names, file, adapter)
    if not mlx and all(name == source for name, source in sources.items()) and len(sources) == len(file.specs):
        return adapter
    folder.mkdir()
    if mlx:
        write_mlx_config(adapter.folder, folder, sources, file.specs, names.embedding)
    else:
        shutil.copy(adapter.folder / "adapter_config.json", folder)

    def read(source: str) -> Tensor:
        tensor = file.read(source)
        return tensor.T.contiguous() if mlx and tensor.ndim == 2 else tensor

    def spec(source: str) -> TensorSpec:
        found = file.specs[source]
        return TensorSpec(found.dtype, found.shape[::-1]) if mlx else found

    specs = {name: spec(source) for name, source in sources.items()}
    with SafetensorsWriter(folder / "adapter_model.safetensors", specs) as writer:
        for name, source in sources.items():
            writer.write(name, read(source))
    return replace(adapter, standard_folder=folder)


def open_weights(folder: Path) -> SafetensorsFile | TorchFile:
    """The weights file of an adapter. Raises MachineError if it is damaged."""
    for name in ("adapter_model.safetensors", "adapters.safetensors"):
        if (folder / name).is_file():
            return SafetensorsFile(folder / name)
    return TorchFile(folder / "adapter_model.bin")


def _standard_name(name: str, base: BaseNames) -> str:
    """The name that PEFT gives to a weight."""
    name = _WRAPPERS.sub("", name)
    if name.startswith("module."):  # of DistributedDataParallel
        name = name.removeprefix("module.")
    if not name.startswith("base_model.") and "." in name:
        name = PREFIX + name
    if saved := _SAVED_IN_FULL.fullmatch(name):
        layer, weight = saved.groups()
        without_name = weight.partition(".")[2]
        known = f"{layer}.{weight}".removeprefix(PREFIX) in base.parameters or not without_name
        return f"{layer}.{weight if known else without_name}"
    name = _ADAPTER_NAME.sub(r"\1\2", name)
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name


def _sources(
    standard: Mapping[str, str], base: BaseNames, file: SafetensorsFile | TorchFile, adapter: Adapter
) -> dict[str, str]:
    """The weight in the file for each standard name, without those that are there twice."""
    import torch

    sources: dict[str, str] = {}
    for source, name in standard.items():
        first = sources.setdefault(name, source)
        if first != source and not torch.equal(file.read(first), file.read(source)):
            raise UsageError(
                f"{adapter.folder} has the same weight twice, with different values: {first} and {source}.",
                remedy="Remove one of them from its file, or save the adapter again with PEFT.",
            )
    trained_twice = f"{PREFIX}{base.head}{_TRAINED_TOKENS}" if base.tied else ""
    for name in list(sources):
        of_tied = name == trained_twice and f"{PREFIX}{base.embedding}{_TRAINED_TOKENS}" in sources
        replaced = _BEFORE_TRAINING in name and name.replace(_BEFORE_TRAINING, ".") in sources
        if of_tied or replaced:
            del sources[name]
    return sources


def _replace_prefix(
    standard: Mapping[str, str], base: BaseNames, adapter: Adapter, note: Callable[[str], None]
) -> dict[str, str]:
    """``standard`` with the names of layers that the base nests in other modules, such as ``model.language_model``."""
    unknown = {
        source: name.removeprefix(PREFIX)
        for source, name in standard.items()
        if name.startswith(PREFIX) and not base.contain(name.removeprefix(PREFIX))
    }
    found = _find_prefix(unknown.values(), base.layers)
    if found is None:
        return dict(standard)
    old, new = found
    moved = {source: new + name.removeprefix(old) if name.startswith(old) else name for source, name in unknown.items()}
    result = {**standard, **{source: PREFIX + name for source, name in moved.items()}}
    if not all(base.contain(name) for name in moved.values()) or len(set(result.values())) < len(
        set(standard.values())
    ):
        return dict(standard)
    note(f"{adapter.folder} names its layers {old or PREFIX}…, the base {new or PREFIX}…: they are the same layers")
    return result


def _find_prefix(names: Iterable[str], layers: Iterable[str]) -> tuple[str, str] | None:
    """The prefix of a name, and that of the one layer of the base whose name otherwise ends the same."""
    prefixes: dict[str, set[str]] = {}  # by the end of a layer's name
    for layer in layers:
        parts = layer.split(".")
        for start in range(len(parts)):
            prefixes.setdefault(".".join(parts[start:]), set()).add("".join(f"{each}." for each in parts[:start]))
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if any(part.isdigit() for part in parts[:start]):  # the number of a layer must be the same
                break
            for end in range(len(parts), start, -1):
                new = prefixes.get(".".join(parts[start:end]), set())
                if len(new) == 1 and not re.search(r"\d", next(iter(new))):
                    return "".join(f"{each}." for each in parts[:start]), next(iter(new))
    return None
