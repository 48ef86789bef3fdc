"""The merge, tensor by tensor: read from the base, changed where the adapter changes it, written at its place.

Never more than one weight and what PEFT computes of it is in memory, beside the adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, RunError
from orpo_cli.merge.adapter_layers import MAX_OUTPUT_DIFFERENCE, AdaptedLayer, AdaptedLayers
from orpo_cli.merge.base_checkpoint import Checkpoint, UnsupportedCheckpoint, WeightGroup, WeightMap
from orpo_cli.merge.quantized_base import QuantizedBase
from orpo_cli.merge.tensor_files import SafetensorsFile, SafetensorsWriter, TensorSpec, raw_bytes

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]  # (tensors done, of)


@dataclass
class ShardedMerge:
    """What goes into a merge, and what it finds on its way."""

    checkpoint: Checkpoint
    weights: WeightMap
    adapted_layers: AdaptedLayers
    base: QuantizedBase
    dtype: str
    untied: dict[str, str] = field(default_factory=dict)  # parameter that differs from the one it was tied to: its name
    output_differences: dict[str, float] = field(default_factory=dict)  # of each changed parameter: see Site.merge
    digests: dict[str, int] = field(default_factory=dict)  # name on disk: of the bytes that were written

    def __post_init__(self) -> None:
        self._shapes = {name: tuple(each.shape) for name, each in self.weights.model.state_dict().items()}
        given = self.adapted_layers.full_weights
        for pair in self.weights.tied.items():
            for one, other in (pair, pair[::-1]):  # an adapter may hold one of the two for both
                if (
                    one in given
                    and other not in given
                    and (one in self.adapted_layers.applied_to_tied or other in self.adapted_layers.saved_as_tied)
                ):
                    given[other] = given[one]
        for unit in self.weights.groups:
            if unit.converter is None and unit.parameters[0] not in given:
                self._check_shape(unit.parameters[0], self.checkpoint.specs[unit.keys[0]].shape)

    def _check_shape(self, name: str, found: tuple[int, ...]) -> None:
        """A weight may only have too few rows, which are those of new tokens."""
        shape = self._shapes[name]
        if found[1:] != shape[1:] or (found != shape and (not found or found[0] > shape[0])):
            raise UnsupportedCheckpoint(f"{name} has the shape {found} on disk, not {shape}")

    def find_untied_parameters(self) -> None:
        """Find the tied parameters that the adapter makes different: they are stored apart, and the config says so."""
        import torch

        for target, source in self.weights.tied.items():
            if not (self.adapted_layers.changes(target) or self.adapted_layers.changes(source)):
                continue
            one, other = (
                self._to_output_dtype(self._merged_values([target])[target]),
                self._to_output_dtype(self._merged_values([source])[source]),
            )
            if not torch.equal(one, other):
                self.untied[target] = self.weights.checkpoint_key(target)

    def output_specs(self) -> dict[str, TensorSpec]:
        """What will be written: name on disk, type, shape."""
        found: dict[str, TensorSpec] = {}
        for unit in self.weights.groups:
            for key in unit.keys:
                spec = self.checkpoint.specs[key]
                shape = self._shapes[unit.parameters[0]] if unit.converter is None else spec.shape
                found[key] = TensorSpec(self._output_dtype(spec.dtype), shape)
        for target, name in self.untied.items():
            found[name] = TensorSpec(self.dtype, self._shapes[target])
        return found

    def merged_tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor of the merged model by its name on disk, in the order in which the base's files have them."""
        done: set[str] = set()
        for unit in sorted(self.weights.groups, key=lambda each: self.checkpoint.file_order(each.keys[0])):
            if unit.keys[0] in done:
                continue
            for each, parameters in self._merge_with_dependents(unit):
                done.update(each.keys)
                if parameters is None:
                    for key in each.keys:
                        yield key, self._to_output_dtype(self.base.to_training_dtype(self.checkpoint.read(key)))
                else:
                    for key, tensor in self.weights.revert(each, parameters).items():
                        yield key, self._to_output_dtype(tensor)
        for target, name in self.untied.items():
            yield name, self._to_output_dtype(self._merged_values([target])[target])

    def _merge_with_dependents(self, unit: WeightGroup) -> list[tuple[WeightGroup, dict[str, Tensor] | None]]:
        """The unit, with others that a site of it needs, and the final parameters of each; None where they are the base's."""
        if not any(self._is_changed(name) for name in unit.parameters):
            return [(unit, None)]
        units, names = [unit], list(unit.parameters)
        for name in names:  # grows
            for site in self.adapted_layers.layers_of(name):
                for needed in site.parameters.values():
                    if needed not in names:
                        units.append(self.weights.group_of[needed])
                        names.extend(units[-1].parameters)
        finals = self._merged_values(names)
        return [(each, {name: finals.pop(name) for name in each.parameters}) for each in units]

    def _is_changed(self, name: str) -> bool:
        grown = name in self.weights.group_of and self._is_resized(name)
        return grown or self.adapted_layers.changes(name) or self.base.is_quantized(name)

    def _is_resized(self, name: str) -> bool:
        unit = self.weights.group_of[name]
        return unit.converter is None and self.checkpoint.specs[unit.keys[0]].shape != self._shapes[name]

    def _merged_values(self, names: list[str]) -> dict[str, Tensor]:
        """Parameters with everything the adapters do to them, in float32."""
        values = {
            name: self.adapted_layers.full_weights[name].float().clone()
            for name in names
            if name in self.adapted_layers.full_weights
        }
        for name in names:
            if name not in values:
                values.update(
                    {
                        each: value
                        for each, value in self._base_values(name).items()
                        if each in names and each not in values
                    }
                )
        for site in {id(site): site for name in names for site in self.adapted_layers.layers_of(name)}.values():
            self._merge_layer(site, values)
        return values

    def _merge_layer(self, site: AdaptedLayer, values: dict[str, Tensor]) -> None:
        import torch

        merged, apart = site.merge(values, getattr(torch, self.base.dtype))
        name = next(iter(merged))
        if apart > MAX_OUTPUT_DIFFERENCE:
            raise RunError(
                f"the merged {name} differs from base and adapter by {apart:.1g} of its output.",
                remedy="Nothing was kept. Please report it.",
            )
        self.output_differences[name] = apart
        values.update(merged)

    def _base_values(self, name: str) -> dict[str, Tensor]:
        """The parameters of the unit that ``name`` is made in, as training had them, grown where the model has grown."""
        source = self.weights.tied.get(name, name)
        made = self.weights.convert(self.weights.group_of[source], self.checkpoint.read)
        values = {
            each: self.base.training_value(each, self._resize(each, self.base.to_training_dtype(it)))
            for each, it in made.items()
        }
        return {name: values[source]} if source != name else values

    def _resize(self, name: str, tensor: Tensor) -> Tensor:
        shape = self._shapes[name]
        if tuple(tensor.shape) == shape:
            return tensor
        return append_mean_rows(tensor, shape[0])

    def _output_dtype(self, dtype: str) -> str:
        import torch

        return self.dtype if getattr(torch, dtype).is_floating_point else dtype

    def _to_output_dtype(self, tensor: Tensor) -> Tensor:
        import torch

        return tensor.to(getattr(torch, self._output_dtype(str(tensor.dtype).removeprefix("torch.")))).contiguous()


def append_mean_rows(tensor: Tensor, rows: int) -> Tensor:
    """``tensor`` with the mean of its rows below it, up to ``rows``."""
    import torch

    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], *tensor.shape[1:])])


def write_shards(merging: ShardedMerge, folder: Path, max_shard_size: str, progress: Progress) -> None:
    """Write the merged weights to ``folder`` in files of at most ``max_shard_size``, with an index where they are several.

    One tensor is written while the next is merged.
    """
    from concurrent.futures import Future, ThreadPoolExecutor
    from contextlib import ExitStack

    specs = merging.output_specs()
    files = plan_shards(specs, max_shard_size)
    file_of = {name: file for file, names in files.items() for name in names}
    try:
        with ExitStack() as stack:
            writers = {
                file: stack.enter_context(SafetensorsWriter(folder / file, {name: specs[name] for name in names}))
                for file, names in files.items()
            }

            def put(name: str, tensor: Tensor) -> None:
                writers[file_of[name]].write(name, tensor)
                merging.digests[name] = _digest(tensor)

            thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            last: Future[None] | None = None
            for done, (name, tensor) in enumerate(merging.merged_tensors(), start=1):
                if last is not None:
                    last.result()
                last = thread.submit(put, name, tensor)
                progress(done, len(specs))
            if last is not None:
                last.result()
        if len(files) > 1:
            (folder / "model.safetensors.index.json").write_text(_index(specs, file_of), encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"cannot write the model to {folder.parent}: {error.strerror or error}",
            remedy="Free some space, or choose another disk with -o.",
        ) from error


def _digest(tensor: Tensor) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(raw_bytes(tensor))


def plan_shards(specs: Mapping[str, TensorSpec], max_shard_size: str) -> dict[str, list[str]]:
    """Names of files, and the tensors in each, as transformers would lay them out."""
    from huggingface_hub import split_state_dict_into_shards_factory

    split: Any = split_state_dict_into_shards_factory(
        dict(specs),
        get_storage_size=lambda spec: spec.bytes,
        get_storage_id=lambda spec: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    return dict(split.filename_to_tensors)


def _index(specs: Mapping[str, TensorSpec], file_of: Mapping[str, str]) -> str:
    import math

    metadata = {
        "total_parameters": sum(math.prod(spec.shape) for spec in specs.values()),
        "total_size": sum(spec.bytes for spec in specs.values()),
    }
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(file_of.items()))}, indent=2) + "\n"


def verify_digests(folder: Path, digests: Mapping[str, int]) -> None:
    """Read every stored tensor and compare it with what was written. Raises RunError where the disk has something else."""
    from concurrent.futures import ThreadPoolExecutor

    files = [SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
    places = [(file, name) for file in files for name in file.specs]
    with ThreadPoolExecutor(max_workers=2) as threads:
        found = dict(threads.map(lambda place: (place[1], _digest(place[0].read(place[1]))), places))
    wrong = sorted(name for name in {*digests, *found} if found.get(name) != digests.get(name))
    if wrong:
        raise RunError(
            f"the stored model differs from what was merged: {len(wrong)} of {len(digests)} tensors, such as {wrong[0]}.",
            remedy="The disk may be failing; try another one with -o.",
        )
