"""Sharded merge: read one tensor of the base after the other, merge the adapters into it, write it to its file.

Memory holds the adapters, one weight and what PEFT computes from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import RunError
from orpo_cli.merging.adapter_layers import MAX_OUTPUT_DIFFERENCE, AdaptedLayer, AdaptedLayers
from orpo_cli.merging.base_checkpoint import Checkpoint, UnsupportedCheckpoint, WeightGroup, WeightMap
from orpo_cli.merging.quantized_base import QuantizedBase
from orpo_cli.merging.tensor_files import SafetensorsFile, SafetensorsWriter, TensorSpec, raw_bytes
from orpo_cli.model.file_size import parse_size

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]  # (tensors done, total)


@dataclass
class ShardedMerge:
    """Inputs of a merge, and what it records while it runs. ``dtype``: of the merged weights."""

    checkpoint: Checkpoint
    weights: WeightMap
    adapted_layers: AdaptedLayers
    base: QuantizedBase
    dtype: str
    untied: dict[str, str] = field(default_factory=dict)  # parameter that the adapter unties: its name on disk
    output_differences: dict[str, float] = field(default_factory=dict)  # by parameter: see AdaptedLayer.merge
    digests: dict[str, int] = field(default_factory=dict)  # name on disk: digest of the written bytes

    def __post_init__(self) -> None:
        self._shapes = {name: tuple(each.shape) for name, each in self.weights.model.state_dict().items()}
        model = self.weights.model
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        self._vocabulary = {
            f"{name}.{each}" for name, module in model.named_modules() if module in ends for each in ("weight", "bias")
        }
        self._share_full_weights_of_ties()
        for group in self.weights.groups:
            if group.converter is None and group.parameters[0] not in self.adapted_layers.full_weights:
                self._check_shape(group.parameters[0], self.checkpoint.specs[group.keys[0]].shape)

    def _share_full_weights_of_ties(self) -> None:
        """Use a full weight of the adapter for the tied parameter too, if the adapter saved it for both."""
        layers, full_weights = self.adapted_layers, self.adapted_layers.full_weights
        for pair in self.weights.tied.items():
            for one, other in (pair, pair[::-1]):
                saved_for_both = one in layers.applied_to_tied or other in layers.saved_as_tied
                if one in full_weights and other not in full_weights and saved_for_both:
                    full_weights[other] = full_weights[one]

    def _check_shape(self, name: str, found: tuple[int, ...]) -> None:
        """Raise UnsupportedCheckpoint unless the tensor has the parameter's shape, or the rows of another vocabulary size."""
        shape = self._shapes[name]
        if found[1:] != shape[1:] or (found != shape and (not found or name not in self._vocabulary)):
            raise UnsupportedCheckpoint(f"{name} has the shape {found} on disk, not {shape}")

    def find_untied_parameters(self) -> None:
        """Find tied parameters that differ after the merge: they are saved separately."""
        import torch

        for target, source in self.weights.tied.items():
            if not (self.adapted_layers.changes(target) or self.adapted_layers.changes(source)):
                continue
            one, other = (self._to_output_dtype(self._merged_values([name])[name]) for name in (target, source))
            if not torch.equal(one, other):
                self.untied[target] = self.weights.checkpoint_key(target)

    def output_specs(self) -> dict[str, TensorSpec]:
        """Dtype and shape of every tensor to write, by name on disk."""
        found: dict[str, TensorSpec] = {}
        for group in self.weights.groups:
            for key in group.keys:
                spec = self.checkpoint.specs[key]
                shape = self._shapes[group.parameters[0]] if group.converter is None else spec.shape
                found[key] = TensorSpec(self._output_dtype(spec.dtype), shape)
        for target, name in self.untied.items():
            found[name] = TensorSpec(self.dtype, self._shapes[target])
        return found

    def merged_tensors(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor of the merged model by its name on disk, in the order of the base's files."""
        done: set[str] = set()
        for first in sorted(self.weights.groups, key=lambda each: self.checkpoint.file_order(each.keys[0])):
            if first.keys[0] in done:
                continue
            for group, parameters in self._merge_with_dependents(first):
                done.update(group.keys)
                if parameters is None:
                    for key in group.keys:
                        yield key, self._to_output_dtype(self.base.to_training_dtype(self.checkpoint.read(key)))
                else:
                    for key, tensor in self.weights.revert(group, parameters).items():
                        yield key, self._to_output_dtype(tensor)
        for target, name in self.untied.items():
            yield name, self._to_output_dtype(self._merged_values([target])[target])

    def _merge_with_dependents(self, group: WeightGroup) -> list[tuple[WeightGroup, dict[str, Tensor] | None]]:
        """The group and those that share an adapted layer with it, each with merged parameters; None if unchanged."""
        if not any(self._is_changed(name) for name in group.parameters):
            return [(group, None)]
        groups, names = [group], list(group.parameters)
        for name in names:  # the list grows in the loop
            for layer in self.adapted_layers.layers_of(name):
                for needed in layer.parameters.values():
                    if needed not in names:
                        groups.append(self.weights.group_of[needed])
                        names.extend(groups[-1].parameters)
        values = self._merged_values(names)
        return [(each, {name: values.pop(name) for name in each.parameters}) for each in groups]

    def _is_changed(self, name: str) -> bool:
        """Whether an adapter, the quantization of the base or another vocabulary size changes a parameter."""
        if self.adapted_layers.changes(name) or name in self.base.quantized:
            return True
        group = self.weights.group_of[name]
        return group.converter is None and self.checkpoint.specs[group.keys[0]].shape != self._shapes[name]

    def _merged_values(self, names: list[str]) -> dict[str, Tensor]:
        """The parameters ``names`` after the merge, in float32."""
        full_weights = self.adapted_layers.full_weights
        values = {name: full_weights[name].float().clone() for name in names if name in full_weights}
        for name in names:
            if name not in values:
                found = self._base_values(name)
                values |= {each: value for each, value in found.items() if each in names and each not in values}
        layers = {id(layer): layer for name in names for layer in self.adapted_layers.layers_of(name)}
        for layer in layers.values():
            self._merge_layer(layer, values)
        return values

    def _merge_layer(self, layer: AdaptedLayer, values: dict[str, Tensor]) -> None:
        import torch

        merged, difference = layer.merge(values, getattr(torch, self.base.dtype))
        name = next(iter(merged))
        if difference > MAX_OUTPUT_DIFFERENCE:
            raise RunError(
                f"the outputs of the merged {name} differ from those of base and adapter by {difference:.1g} relative.",
                remedy="The merge is deleted. Please report it.",
            )
        self.output_differences[name] = difference
        values.update(merged)

    def _base_values(self, name: str) -> dict[str, Tensor]:
        """The parameters of the group of ``name`` as training used them, resized if training changed the vocabulary."""
        source = self.weights.tied.get(name, name)
        parameters = self.weights.convert(self.weights.group_of[source], self.checkpoint.read)
        values = {
            each: self.base.training_value(each, self._resize(each, self.base.to_training_dtype(tensor)))
            for each, tensor in parameters.items()
        }
        return {name: values[source]} if source != name else values

    def _resize(self, name: str, tensor: Tensor) -> Tensor:
        shape = self._shapes[name]
        return tensor if tuple(tensor.shape) == shape else resize_rows(tensor, shape[0])

    def _output_dtype(self, dtype: str) -> str:
        import torch

        return self.dtype if getattr(torch, dtype).is_floating_point else dtype

    def _to_output_dtype(self, tensor: Tensor) -> Tensor:
        import torch

        return tensor.to(getattr(torch, self._output_dtype(str(tensor.dtype).removeprefix("torch.")))).contiguous()


def resize_rows(tensor: Tensor, rows: int) -> Tensor:
    """``tensor`` with ``rows`` rows: the first ones, or all of them and new rows that are the mean of the others."""
    import torch

    if rows <= tensor.shape[0]:
        return tensor[:rows].contiguous()
    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], *tensor.shape[1:])])


def write_shards(merge: ShardedMerge, folder: Path, max_shard_size: str, progress: Progress) -> None:
    """Write the merged weights to ``folder`` in files of at most ``max_shard_size``, with an index if there are several.

    A thread writes each tensor while the next one is merged.
    """
    from concurrent.futures import Future, ThreadPoolExecutor
    from contextlib import ExitStack

    specs = merge.output_specs()
    files = plan_shards(specs, max_shard_size)
    file_of = {name: file for file, names in files.items() for name in names}
    with ExitStack() as stack:
        writers = {
            file: stack.enter_context(SafetensorsWriter(folder / file, {name: specs[name] for name in names}))
            for file, names in files.items()
        }

        def write(name: str, tensor: Tensor) -> None:
            writers[file_of[name]].write(name, tensor)
            merge.digests[name] = _digest(tensor)

        thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        last: Future[None] | None = None
        for done, (name, tensor) in enumerate(merge.merged_tensors(), start=1):
            if last is not None:
                last.result()
            last = thread.submit(write, name, tensor)
            progress(done, len(specs))
        if last is not None:
            last.result()
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(shard_index(specs, files), encoding="utf-8")


def _digest(tensor: Tensor) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(raw_bytes(tensor))


def plan_shards(specs: Mapping[str, TensorSpec], max_shard_size: str) -> dict[str, list[str]]:
    """File names with the tensors of each, in the layout of transformers."""
    from huggingface_hub import split_state_dict_into_shards_factory

    split: Any = split_state_dict_into_shards_factory(
        dict(specs),
        get_storage_size=lambda spec: spec.bytes,
        get_storage_id=lambda spec: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=parse_size(max_shard_size, "--max-shard-size"),
    )
    return dict(split.filename_to_tensors)


def shard_index(specs: Mapping[str, TensorSpec], files: Mapping[str, list[str]]) -> str:
    """The content of model.safetensors.index.json for the shards of ``plan_shards``."""
    import math

    metadata = {
        "total_parameters": sum(math.prod(spec.shape) for spec in specs.values()),
        "total_size": sum(spec.bytes for spec in specs.values()),
    }
    weight_map = dict(sorted((name, file) for file, names in files.items() for name in names))
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"


def verify_digests(folder: Path, digests: Mapping[str, int]) -> None:
    """Read every saved tensor and compare its digest. Raises RunError if a tensor differs from what was written."""
    from concurrent.futures import ThreadPoolExecutor

    files = [SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
    tensors = [(file, name) for file in files for name in file.specs]
    with ThreadPoolExecutor(max_workers=2) as threads:
        found = dict(threads.map(lambda each: (each[1], _digest(each[0].read(each[1]))), tensors))
    wrong = sorted(name for name in {*digests, *found} if found.get(name) != digests.get(name))
    if wrong:
        raise RunError(
            f"the saved model differs from what was written: {len(wrong)} of {len(digests)} tensors, such as {wrong[0]}.",
            remedy="The disk may be failing; try another one with -o.",
        )
