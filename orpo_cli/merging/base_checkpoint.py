"""Checkpoint of the base: its tensors on disk, and the mapping between them and the parameters of the model.

transformers 5 renames and regroups weights while it loads them (the experts of a Mixtral are one parameter in memory and
hundreds of tensors on disk). The mapping comes from the conversion tables of transformers, applied to a meta model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.merging.tensor_files import SafetensorsFile, TensorSpec, TorchFile
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.weight_files import SINGLE_FILES, find_weight_files
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class UnsupportedCheckpoint(Exception):
    """The reason why a model cannot be merged tensor by tensor. It can still be merged in memory."""


@dataclass(frozen=True)
class WeightGroup:
    """Tensors on disk and the parameters that they are converted to, mostly one to one.

    ``converter``: transformers' WeightConverter, or None if the tensor is only renamed.
    """

    keys: tuple[str, ...]  # on disk
    parameters: tuple[str, ...]  # of the model
    patterns: tuple[str, ...] = ()  # of each key, for ``converter``
    converter: Any = None


class Checkpoint:
    """The tensors of a model on disk, by name, in one file or several."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._open = [SafetensorsFile(each) if each.suffix == ".safetensors" else TorchFile(each) for each in files]
        self._file_of = {name: file for file in self._open for name in file.specs}
        self.specs: dict[str, TensorSpec] = {name: file.specs[name] for name, file in self._file_of.items()}

    @classmethod
    def from_source(cls, source: ModelSource[ModelSection]) -> Checkpoint:
        """The checkpoint of a base, downloaded if it is on the hub. Raises UsageError, MachineError, HubError."""
        with explain_load_errors(source.section.model_name_or_path):
            return cls(_find_weight_files(source))

    def read(self, name: str) -> Tensor:
        """A copy of one tensor."""
        return self._file_of[name].read(name)

    def file_order(self, name: str) -> tuple[int, str]:
        """Sort key that orders tensors by file."""
        return self.files.index(self._file_of[name].path), name


def _find_weight_files(source: ModelSource[ModelSection]) -> list[Path]:
    if files := find_weight_files(source):
        return files
    names = ", ".join(SINGLE_FILES)
    raise UnsupportedCheckpoint(f"{source.section.model_name_or_path} has neither of {names}, nor an index of shards")


@dataclass
class WeightMap:
    """Mapping between the tensors of a checkpoint and the parameters of a model."""

    model: PreTrainedModel  # meta model
    groups: list[WeightGroup]
    tied: dict[str, str]  # parameter without a tensor on disk: the parameter it is tied to
    group_of: dict[str, WeightGroup] = field(init=False)  # by parameter

    def __post_init__(self) -> None:
        self.group_of = {name: group for group in self.groups for name in group.parameters}

    def convert(self, group: WeightGroup, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The parameters of a group from its tensors on disk."""
        if group.converter is None:
            return {group.parameters[0]: read(group.keys[0])}
        return _convert(self.model, group, read)

    def revert(self, group: WeightGroup, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors on disk of a group from its parameters."""
        if group.converter is None:
            return {group.keys[0]: parameters[group.parameters[0]]}
        return {name: tensor.contiguous() for name, tensor in _revert(self.model, parameters).items()}

    def checkpoint_key(self, parameter: str) -> str:
        """The name on disk of a parameter that the checkpoint does not contain."""
        import torch

        (name,) = _revert(self.model, {parameter: torch.empty(0, device="meta")})
        return str(name)


def build_weight_map(model: PreTrainedModel, checkpoint: Checkpoint) -> WeightMap:
    """The mapping that transformers uses for this model. Raises UnsupportedCheckpoint if it has an unknown conversion."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    if len(renamings) + len(converters) != len(transforms):
        raise UnsupportedCheckpoint("transformers converts its weights in an unknown way")
    converter_of = {pattern: each for each in converters for pattern in each.source_patterns}
    specs, known, prefix = checkpoint.specs, model.state_dict(), model.base_model_prefix
    found: dict[str, list[tuple[str, str | None]]] = {}  # first parameter: (key, pattern) of each tensor
    for key in sorted(specs, key=dot_natural_key):  # the order in which from_pretrained collects them
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], base_model_prefix=prefix, meta_state_dict=known)
        if name in known:
            found.setdefault(name, []).append((key, pattern))
    model._weight_conversions = [each for each in transforms if each.was_used()]
    groups = [_weight_group(model, name, sources, converter_of, specs) for name, sources in found.items()]
    tied = {target: source for target, source in model.all_tied_weights_keys.items() if target in known}
    return _resolve_ties(model, groups, tied, checkpoint)


def _weight_group(
    model: PreTrainedModel,
    first: str,
    sources: list[tuple[str, str | None]],
    converter_of: Mapping[str, Any],
    specs: Mapping[str, TensorSpec],
) -> WeightGroup:
    import torch

    keys = tuple(key for key, _ in sources)
    patterns = {pattern for _, pattern in sources}
    if patterns == {None} and len(keys) == 1:
        return WeightGroup(keys, (first,))
    if None in patterns:
        raise UnsupportedCheckpoint(f"{first} consists of {', '.join(keys[:3])}")
    converters = {id(converter_of[str(pattern)]): converter_of[str(pattern)] for pattern in patterns}
    if len(converters) != 1:
        raise UnsupportedCheckpoint(f"{first} has several converters")
    (converter,) = converters.values()
    group = WeightGroup(keys, (first,), tuple(str(pattern) for _, pattern in sources), converter)

    def meta_tensor(key: str) -> Tensor:
        return torch.empty(specs[key].shape, dtype=getattr(torch, specs[key].dtype), device="meta")

    try:
        converted = _convert(model, group, meta_tensor)
        reverted = _revert(model, converted)
    except Exception as error:  # an unknown conversion may raise anything on meta tensors
        raise UnsupportedCheckpoint(f"the conversion of {first} fails on meta tensors: {error}") from error
    if set(reverted) != set(keys) or any(tuple(reverted[key].shape) != specs[key].shape for key in keys):
        raise UnsupportedCheckpoint(f"the conversion of {first} cannot be reverted")
    return WeightGroup(keys, tuple(converted), group.patterns, converter)


def _convert(model: PreTrainedModel, group: WeightGroup, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    converter = deepcopy(group.converter)
    for key, pattern in zip(group.keys, group.patterns, strict=True):
        converter.add_tensor(group.parameters[0], key, pattern, read(key))
    converted = converter.convert(group.parameters[0], model=model, config=model.config)
    return {name: each[0] if isinstance(each, list) else each for name, each in converted.items()}


def _revert(model: PreTrainedModel, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, parameters))


def _resolve_ties(
    model: PreTrainedModel, groups: list[WeightGroup], tied: dict[str, str], checkpoint: Checkpoint
) -> WeightMap:
    """The mapping in which every parameter has a tensor on disk or is tied to one that has."""
    group_of = {name: group for group in groups for name in group.parameters}
    resolved: dict[str, str] = {}
    for target, source in tied.items():
        if target in group_of and source in group_of:
            duplicate = group_of.pop(target)
            _check_equal(checkpoint, duplicate, group_of[source])
            groups.remove(duplicate)
        on_disk, not_on_disk = (source, target) if source in group_of else (target, source)
        resolved[not_on_disk] = on_disk
    missing = [name for name in model.state_dict() if name not in group_of and name not in resolved]
    if missing:
        raise UnsupportedCheckpoint(f"the checkpoint has no weights for {', '.join(missing[:3])}")
    return WeightMap(model, groups, resolved)


def _check_equal(checkpoint: Checkpoint, one: WeightGroup, other: WeightGroup) -> None:
    """Raise UnsupportedCheckpoint unless both tensors are equal: transformers ties two tensors on disk only then."""
    import torch

    names = f"{one.parameters[0]} and {other.parameters[0]} are tied, and both are on disk"
    if one.converter is not None or other.converter is not None:
        raise UnsupportedCheckpoint(names)
    if not torch.equal(checkpoint.read(one.keys[0]), checkpoint.read(other.keys[0])):
        raise UnsupportedCheckpoint(f"{names}, with different values")
