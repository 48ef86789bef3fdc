"""Safetensors of another type or cut into other files: shard by shard, so that memory holds one shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError, RunError
from orpo_cli.json_files import read_json_object
from orpo_cli.model.save import copy_mode_to_weights

if TYPE_CHECKING:
    from torch import Tensor

# Of a model folder, what goes along with the weights: configurations, tokenizer, template, the model's own code, its licence.
MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.jinja", "*.py", "processor_config.json", "preprocessor_config.json", "LICENSE*",
)  # fmt: skip


class Weights:
    """The tensors of a folder of safetensors by name, read one at a time. Use ``opened``."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from safetensors import safe_open

        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        self._holder = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (a file is no mapping)

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._holder)

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return tuple(self._holder[name].get_slice(name).get_shape())

    def is_float(self, name: str) -> bool:
        """Whether another floating type may stand for it; without reading the tensor."""
        return self._holder[name].get_slice(name).get_dtype() in ("F64", "F32", "F16", "BF16")

    def read(self, name: str) -> Tensor:
        """The tensor, as stored."""
        tensor: Tensor = self._holder[name].get_tensor(name)
        return tensor


@contextmanager
def opened(folder: Path) -> Iterator[Weights]:
    """The weights in ``folder``. Raises MachineError where they cannot be read."""
    from safetensors import SafetensorError

    with ExitStack() as stack:
        try:
            yield Weights(folder, stack)
        except SafetensorError as error:
            raise MachineError(
                f"{folder}: its weights cannot be read: {error}", remedy="Download or save them again."
            ) from error


def write_safetensors(source: Path, folder: Path, *, dtype: str, max_shard_size: str, ends: list[int]) -> None:
    """Write the model in ``source`` to ``folder`` with weights of ``dtype``, a file no larger than ``max_shard_size``.

    ``ends`` are the tokens that end an answer; generation_config.json gets them all.
    Raises RunError where a weight does not fit into ``dtype``, MachineError where the disk is full.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    wanted = getattr(torch, dtype)
    copy_model_files(source, folder)
    set_dtype(folder / "config.json", dtype)
    set_eos_token_ids(folder / "generation_config.json", ends)
    try:
        with opened(source) as weights:
            shapes = {
                name: torch.empty(
                    weights.shape(name),
                    dtype=wanted if weights.is_float(name) else weights.read(name).dtype,
                    device="meta",
                )
                for name in weights.names
            }
            split = split_torch_state_dict_into_shards(
                shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
            )
            for file, names in split.filename_to_tensors.items():
                tensors = {name: _as(weights, name, wanted) for name in names}
                save_file(tensors, folder / file, metadata={"format": "pt"})
    except OSError as error:
        raise MachineError(
            f"cannot write the model to {folder.parent}: {error.strerror or error}",
            remedy="Free some space, or choose another disk with -o.",
        ) from error
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    copy_mode_to_weights(folder / "config.json")


def _as(weights: Weights, name: str, dtype: Any) -> Tensor:
    """The tensor in ``dtype``. Raises RunError where that makes a number infinite."""
    tensor = weights.read(name)
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if bool(cast.isfinite().all() != tensor.isfinite().all()):
        raise RunError(
            f"{name} has numbers up to {tensor.abs().max().item():.3g}, which {dtype} cannot hold.",
            remedy="Export it with --dtype bfloat16.",
        )
    return cast.contiguous()


def differing_tensors(source: Path, folder: Path) -> list[str]:
    """Names that are missing in ``folder``, added, or not what ``source`` has, rounded to the type they are stored in."""
    import torch

    with opened(source) as expected, opened(folder) as found:
        wrong = set(expected.names) ^ set(found.names)
        for name in set(expected.names) & set(found.names):
            tensor = found.read(name)
            if not torch.equal(expected.read(name).to(tensor.dtype), tensor):
                wrong.add(name)
    return sorted(wrong)


def copy_model_files(source: Path, folder: Path) -> None:
    """Copy what belongs to a model besides its weights."""
    found = {path for pattern in MODEL_FILES for path in source.glob(pattern) if path.is_file()}
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    for templates in source.glob("additional_chat_templates"):
        shutil.copytree(templates, folder / templates.name)


def set_dtype(path: Path, dtype: str) -> None:
    """Say in a config.json what type the weights have, in the parts of a composed model too."""
    config = read_json_object(path)
    parts = [part for part in config.values() if isinstance(part, dict)]
    for part in (config, *(part for part in parts if "dtype" in part or "torch_dtype" in part)):
        part.pop("torch_dtype", None)  # the name before transformers 5
        part["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def set_eos_token_ids(path: Path, ends: list[int]) -> None:
    """Make a generation_config.json stop at every one of ``ends``; many a model names the EOS alone."""
    settings = read_json_object(path) if path.is_file() else {}
    if ends:
        settings["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
