"""A model on disk as others will load it: written whole, read back, looked over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import MachineError, RunError
from orpo_cli.recipe.schema import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def store(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int], folder: Path, max_shard_size: str
) -> None:
    """Write ``model`` to ``folder``: weights, configs with every end token, tokenizer with its template."""
    from safetensors import SafetensorError

    _settle_generation_config(model, tokenizer, ends)
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(folder)
        for path in folder.glob("*.safetensors"):  # safetensors makes them readable for their owner alone
            path.chmod((folder / "config.json").stat().st_mode)
    except (OSError, SafetensorError) as error:
        raise MachineError(
            f"cannot write the model to {folder.parent}: {getattr(error, 'strerror', None) or error}",
            remedy="Free some space, or choose another disk with -o.",
        ) from error


def _settle_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    settings = model.generation_config
    if settings is None:
        return
    if ends:
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True  # many a base has a temperature without it, which transformers reads but won't write


def read_back(folder: Path, ends: list[int], *, like: ModelSection, dtype: str) -> PreTrainedModel:
    """The stored model in ``dtype`` on the CPU. Raises RunError where its folder is not what it should be."""
    from orpo_cli.model.base import load_base

    update = {"model_name_or_path": str(folder), "model_revision": "main", "dtype": dtype}
    model = load_base(like.model_copy(update=update), None, "cpu")
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
