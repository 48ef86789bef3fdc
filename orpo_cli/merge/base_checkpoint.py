"""The base's weights on disk, and which of the model's parameters each of them is.

transformers 5 renames and regroups weights while it loads them (the experts of a Mixtral are one parameter in memory and
hundreds of tensors on disk). Which goes where is asked of transformers' own tables, on a model without weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.merge.tensor_files import SafetensorsFile, TensorSpec, TorchFile
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


class UnsupportedCheckpoint(Exception):
    """Why a model cannot be merged tensor by tensor; the way through memory is left."""


@dataclass(frozen=True)
class WeightGroup:
    """Tensors on disk that become parameters together: mostly one and one.

    ``regroup`` is transformers' converter where it is more than a renaming.
    """

    keys: tuple[str, ...]  # on disk
    parameters: tuple[str, ...]  # of the model
    patterns: tuple[str, ...] = ()  # of each key, for ``regroup``
    converter: Any = None


class Checkpoint:
    """Every tensor of a model on disk, by name, whatever file it is in."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._open = [SafetensorsFile(each) if each.suffix == ".safetensors" else TorchFile(each) for each in files]
        self._file_of = {name: file for file in self._open for name in file.specs}
        self.specs: dict[str, TensorSpec] = {name: file.specs[name] for name, file in self._file_of.items()}

    @classmethod
    def from_source(cls, source: ModelSource[ModelSection]) -> Checkpoint:
        """The checkpoint of a base; it is downloaded where it is on the hub. Raises UsageError, MachineError, HubError."""
        with explain_load_errors(source.section.model_name_or_path):
            return cls(_find_weight_files(source))

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        return self._file_of[name].read(name)

    def largest_file_bytes(self) -> int:
        """Bytes of the largest file of weights."""
        return max(each.stat().st_size for each in self.files)

    def file_order(self, name: str) -> tuple[int, str]:
        """Where a tensor lies, to read in the order of the files."""
        return self.files.index(self._file_of[name].path), name


def _find_weight_files(source: ModelSource[ModelSection]) -> list[Path]:
    from transformers.utils import cached_file
    from transformers.utils.hub import get_checkpoint_shard_files

    name, options = source.pretrained_name, source.hub_options
    options.pop("trust_remote_code")
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    for single in SINGLE_FILES:
        for candidate in (single, f"{single}.index.json"):
            found = cached_file(name, candidate, **options, **quiet)
            if found is None:
                continue
            if candidate == single:
                return [Path(found)]
            index = json.loads(Path(found).read_text(encoding="utf-8"))
            if not isinstance(index.get("weight_map"), dict):
                raise UnsupportedCheckpoint(f"{candidate} of {source.section.model_name_or_path} has no weight_map")
            shards, _ = get_checkpoint_shard_files(name, found, **options)
            return sorted(Path(each) for each in shards)
    raise UnsupportedCheckpoint(f"{source.section.model_name_or_path} has neither of {', '.join(SINGLE_FILES)}")


@dataclass
class WeightMap:
    """How the tensors of a checkpoint become the parameters of a model, and back."""

    model: PreTrainedModel  # without weights
    groups: list[WeightGroup]
    tied: dict[str, str]  # parameter that is another one: that one
    unused: list[str]  # tensors on disk that the model does not know, or has elsewhere
    group_of: dict[str, WeightGroup] = field(init=False)  # by parameter

    def __post_init__(self) -> None:
        self.group_of = {name: unit for unit in self.groups for name in unit.parameters}

    def convert(self, unit: WeightGroup, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The parameters of a unit from its tensors."""
        if unit.converter is None:
            return {unit.parameters[0]: read(unit.keys[0])}
        return _convert(self.model, unit, read)

    def revert(self, unit: WeightGroup, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a unit on disk from its parameters: ``parameters`` backwards."""
        if unit.converter is None:
            return {unit.keys[0]: parameters[unit.parameters[0]]}
        return {name: tensor.contiguous() for name, tensor in _revert(self.model, parameters).items()}

    def checkpoint_key(self, parameter: str) -> str:
        """What a parameter that was not on disk before is called there."""
        import torch

        (name,) = _revert(self.model, {parameter: torch.empty(0, device="meta")})
        return str(name)


def build_weight_map(model: PreTrainedModel, checkpoint: Checkpoint) -> WeightMap:
    """Ask transformers what becomes of each tensor. Raises NotUnderstood where that is not plain."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    if len(renamings) + len(converters) != len(transforms):
        raise UnsupportedCheckpoint("transformers converts its weights in a way that is new here")
    converter_of = {pattern: each for each in converters for pattern in each.source_patterns}
    specs, known, prefix = checkpoint.specs, model.state_dict(), model.base_model_prefix
    found: dict[str, list[tuple[str, str | None]]] = {}  # first parameter: (key, pattern) of each tensor
    unused = []
    for key in sorted(specs, key=dot_natural_key):  # the order in which from_pretrained collects them
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], base_model_prefix=prefix, meta_state_dict=known)
        if name in known:
            found.setdefault(name, []).append((key, pattern))
        else:
            unused.append(key)
    model._weight_conversions = [each for each in transforms if each.was_used()]
    units = [_weight_group(model, name, sources, converter_of, specs) for name, sources in found.items()]
    tied = {target: source for target, source in model.all_tied_weights_keys.items() if target in known}
    return _resolve_ties(model, units, tied, unused, checkpoint)


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
        raise UnsupportedCheckpoint(f"{first} is made of {', '.join(keys[:3])}")
    converters = {id(converter_of[str(pattern)]): converter_of[str(pattern)] for pattern in patterns}
    if len(converters) != 1:
        raise UnsupportedCheckpoint(f"{first} is made in more ways than one")
    (regroup,) = converters.values()
    unit = WeightGroup(keys, (first,), tuple(str(pattern) for _, pattern in sources), regroup)

    def without_values(key: str) -> Tensor:
        return torch.empty(specs[key].shape, dtype=getattr(torch, specs[key].dtype), device="meta")

    try:
        made = _convert(model, unit, without_values)
        back = _revert(model, made)
    except Exception as error:  # whatever a conversion that we do not know may raise on tensors without values
        raise UnsupportedCheckpoint(f"the conversion of {first} cannot be tried out: {error}") from error
    if set(back) != set(keys) or any(tuple(back[key].shape) != specs[key].shape for key in keys):
        raise UnsupportedCheckpoint(f"the conversion of {first} cannot be undone")
    return WeightGroup(keys, tuple(made), unit.patterns, regroup)


def _convert(model: PreTrainedModel, unit: WeightGroup, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    converter = deepcopy(unit.converter)
    for key, pattern in zip(unit.keys, unit.patterns, strict=True):
        converter.add_tensor(unit.parameters[0], key, pattern, read(key))
    made = converter.convert(unit.parameters[0], model=model, config=model.config)
    return {name: each[0] if isinstance(each, list) else each for name, each in made.items()}


def _revert(model: PreTrainedModel, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, parameters))


def _resolve_ties(
    model: PreTrainedModel, units: list[WeightGroup], tied: dict[str, str], unused: list[str], checkpoint: Checkpoint
) -> WeightMap:
    """The map, once every parameter has its tensor, of its own or of the one it is tied to."""
    made = {name: unit for unit in units for name in unit.parameters}
    settled: dict[str, str] = {}
    for target, source in tied.items():
        if target in made and source in made:
            twice = made.pop(target)
            _check_equal(checkpoint, twice, made[source])
            units.remove(twice)
            unused.extend(twice.keys)
        here, there = (source, target) if source in made else (target, source)
        settled[there] = here
    missing = [name for name in model.state_dict() if name not in made and name not in settled]
    if missing:
        raise UnsupportedCheckpoint(f"the checkpoint has no weights for {', '.join(missing[:3])}")
    return WeightMap(model, units, settled, unused)


def _check_equal(checkpoint: Checkpoint, one: WeightGroup, other: WeightGroup) -> None:
    """transformers ties what is on disk twice only where both are equal."""
    import torch

    names = f"{one.parameters[0]} and {other.parameters[0]} are tied, and both are on disk"
    if one.converter is not None or other.converter is not None:
        raise UnsupportedCheckpoint(names)
    if not torch.equal(checkpoint.read(one.keys[0]), checkpoint.read(other.keys[0])):
        raise UnsupportedCheckpoint(f"{names}, with different values")
