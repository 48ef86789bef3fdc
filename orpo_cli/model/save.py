"""Saving of a model: weights, configurations and tokenizer, as transformers and other programs load them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.model.file_size import parse_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: list[int],
    folder: Path,
    max_shard_size: str,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write ``model`` to ``folder``: weights, configurations with every end token, tokenizer with its chat template.

    ``weights`` are written instead of those of the model.
    """
    complete_generation_config(model, tokenizer, eos_token_ids)
    most = parse_size(max_shard_size, "max_shard_size")
    model.save_pretrained(folder, max_shard_size=most, state_dict=weights)
    tokenizer.save_pretrained(folder)
    copy_mode_to_weights(folder / "config.json")


def save_configs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int], folder: Path, dtype: str
) -> None:
    """Write configurations and tokenizer to ``folder``, which has the weights in ``dtype`` already."""
    import torch
    from transformers.dynamic_module_utils import custom_object_save

    complete_generation_config(model, tokenizer, eos_token_ids)
    model.config.dtype = getattr(torch, dtype)
    model.config.architectures = [type(model).__name__]
    if model._auto_class is not None:  # a model with custom code
        custom_object_save(model, folder, config=model.config)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copy_mode_to_weights(folder / "config.json")


def copy_mode_to_weights(config: Path) -> None:
    """Give the weights the file mode of ``config``: safetensors makes them readable by their owner only."""
    for path in config.parent.glob("*.safetensors"):
        path.chmod(config.stat().st_mode)


def complete_generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]
) -> None:
    """Set end and padding tokens in the generation config, and make it valid."""
    settings = model.generation_config
    if settings is None:
        return
    if eos_token_ids:
        settings.eos_token_id = eos_token_ids if len(eos_token_ids) > 1 else eos_token_ids[0]
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    try:
        settings.validate(strict=True)
    except ValueError:
        # Many base models set a temperature without it, which transformers reads but does not write.
        settings.do_sample = True


def remove_empty_card(folder: Path) -> None:
    """Remove the README.md of peft, a template to fill in that names the base by its path. The card of a run is in its own folder."""
    (folder / "README.md").unlink(missing_ok=True)
