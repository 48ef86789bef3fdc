"""Safetensors checkpoint with another dtype or other shards, written one shard at a time to save memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import RunError
from orpo_cli.json_files import read_json_object
from orpo_cli.merging.base_checkpoint import Checkpoint
from orpo_cli.merging.sharded_merge import plan_shards, shard_index
from orpo_cli.merging.tensor_files import TensorSpec
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.save import copy_mode_to_weights
from orpo_cli.model.weight_files import find_weight_files
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from torch import Tensor

# Files of a model folder besides the weights: configurations, tokenizer, template, code of the model, licence.
MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*.jinja", "*.py", "processor_config.json", "preprocessor_config.json", "LICENSE*",
)  # fmt: skip


def write_safetensors(source: Path, folder: Path, *, dtype: str, max_shard_size: str, eos_token_ids: list[int]) -> None:
    """Write the model in ``source`` to ``folder`` with weights of ``dtype`` in files of at most ``max_shard_size``.

    generation_config.json gets all ``eos_token_ids``. Raises RunError if a weight is too large for ``dtype``, MachineError
    if the weights cannot be read or written.
    """
    import torch
    from safetensors.torch import save_file

    copy_model_files(source, folder)
    set_dtype(folder / "config.json", dtype)
    set_eos_token_ids(folder / "generation_config.json", eos_token_ids)
    checkpoint = _open_checkpoint(source)
    specs = {
        name: TensorSpec(dtype if getattr(torch, spec.dtype).is_floating_point else spec.dtype, spec.shape)
        for name, spec in sorted(checkpoint.specs.items())
    }
    files = plan_shards(specs, max_shard_size)
    for file, names in files.items():
        tensors = {name: _convert(checkpoint.read(name), name, specs[name].dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(shard_index(specs, files), encoding="utf-8")
    copy_mode_to_weights(folder / "config.json")


def _open_checkpoint(folder: Path) -> Checkpoint:
    """What from_pretrained reads: a folder may have the same weights in another layout, too (``consolidated.safetensors``)."""
    return Checkpoint(find_weight_files(ModelSource(ModelSection(model_name_or_path=str(folder)))))


def _convert(tensor: Tensor, name: str, dtype: str) -> Tensor:
    """The tensor in ``dtype``. Raises RunError if a finite value becomes infinite."""
    import torch

    if tensor.dtype == getattr(torch, dtype):
        return tensor
    converted = tensor.to(getattr(torch, dtype))
    if bool(converted.isfinite().all() != tensor.isfinite().all()):
        raise RunError(
            f"{name} has values up to {tensor.abs().max().item():.3g}, which {dtype} cannot represent.",
            remedy="Export it with --dtype bfloat16.",
        )
    return converted


def differing_tensors(source: Path, folder: Path) -> list[str]:
    """Names of tensors in only one of the folders, or whose values in ``folder`` are not those of ``source``, rounded."""
    import torch

    expected, found = _open_checkpoint(source), _open_checkpoint(folder)
    wrong = set(expected.specs) ^ set(found.specs)
    for name in set(expected.specs) & set(found.specs):
        tensor = found.read(name)
        if not torch.equal(expected.read(name).to(tensor.dtype), tensor):
            wrong.add(name)
    return sorted(wrong)


def copy_model_files(source: Path, folder: Path) -> None:
    """Copy the files of a model besides its weights."""
    found = {path for pattern in MODEL_FILES for path in source.glob(pattern) if path.is_file()}
    for path in sorted(found):
        shutil.copyfile(path, folder / path.name)
    for templates in source.glob("additional_chat_templates"):
        shutil.copytree(templates, folder / templates.name)


def set_dtype(path: Path, dtype: str) -> None:
    """Set the dtype of the weights in a config.json, and in the sections of a composite model."""
    config = read_json_object(path)
    sections = [
        each for each in config.values() if isinstance(each, dict) and ("dtype" in each or "torch_dtype" in each)
    ]
    for section in (config, *sections):
        section.pop("torch_dtype", None)  # the name before transformers 5
        section["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def set_eos_token_ids(path: Path, eos_token_ids: list[int]) -> None:
    """Set all end tokens in a generation_config.json; many published models name only the EOS token."""
    settings = read_json_object(path) if path.is_file() else {}
    if eos_token_ids:
        settings["eos_token_id"] = eos_token_ids if len(eos_token_ids) > 1 else eos_token_ids[0]
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
