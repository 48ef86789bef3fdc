"""Datasets, models and tokenizers that a Python program holds in memory, as files in the cache that a recipe can name.

A run is described by files alone, so that it can be resumed, merged and evaluated by another process. The names are digests of
the content: the same object gives the same file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orpo_cli.cache_dir import cache_dir
from orpo_cli.cache_entry import cached_entry
from orpo_cli.errors import UsageError
from orpo_cli.memory_dataset import memory_dataset_file

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SavedObject(NamedTuple):
    """File or folder of an object; the argument that gave it, and what it is, for messages."""

    path: Path
    argument: str
    kind: str


def save_dataset(dataset: Dataset, argument: str) -> SavedObject:
    """The Parquet file with the rows of ``dataset``. Raises UsageError for another type, OSError where it cannot be written."""
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        kind = type(dataset).__name__
        remedy = "Choose one split of it." if isinstance(dataset, dict) else _builders(argument).get(kind)
        remedy = remedy or f"{argument}=datasets.Dataset.from_list(rows) builds one of a list of rows."
        raise UsageError(f"{argument}: a {kind} is not a datasets.Dataset.", remedy=remedy)
    plain = dataset.flatten_indices() if dataset._indices is not None else dataset
    digest = hashlib.sha256(f"{argument} {plain.features}".encode())
    for batch in plain.with_format("arrow").iter(batch_size=1000):
        digest.update(json.dumps(batch.to_pylist(), default=repr, ensure_ascii=False).encode())
    file = memory_dataset_file(cache_dir(), digest.hexdigest(), len(dataset), argument)
    cached_entry(
        file.parent,
        lambda folder: _write_parquet(plain, folder / file.name),
        lambda _: None,
        what="writes the same dataset",
    )
    return SavedObject(file, argument, "a Dataset in memory")


def _write_parquet(dataset: Dataset, file: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(dataset.with_format("arrow")[:], file)


def _builders(argument: str) -> dict[str, str]:
    """The call that builds a dataset, by the name of the type that it is built of."""
    return {
        "DataFrame": f"Build it: {argument}=datasets.Dataset.from_pandas(df, preserve_index=False).",
        "IterableDataset": f"Build it: {argument}=datasets.Dataset.from_list(list(ds.take(1000))), or name its source in the recipe.",
    }


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Path:
    """The folder with ``model`` and ``tokenizer``. Raises UsageError for a model that is not a plain one of transformers."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"model: a {type(model).__name__} is not a transformers model.",
            remedy="Give the base model; `lora` in the recipe adds the adapter.",
        )
    if getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(
            "model: it is quantized already.",
            remedy="Give its name in model.model_name_or_path, and its settings in `quantization`.",
        )
    if tokenizer is None:
        raise UsageError("model: its tokenizer is missing.", remedy="Give it too: tokenizer=….")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UsageError(
            "model: it has an adapter.", remedy="Give the base model; `lora` in the recipe adds the adapter."
        )
    # save_pretrained sets both values in the config of the object
    values = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": str(model.dtype)}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(_bytes()).numpy())
    if model.generation_config is not None:
        digest.update(model.generation_config.to_json_string(use_diff=False).encode())
    digest.update(_tokenizer_state(tokenizer))
    entry = cache_dir() / "models" / digest.hexdigest()[:32]

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    cached_entry(entry, write, lambda _: None, what="writes the same model")
    return entry


def _bytes() -> Any:
    import torch

    return torch.uint8


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> bytes:
    values = [tokenizer.get_vocab(), tokenizer.chat_template, tokenizer.special_tokens_map, tokenizer.init_kwargs]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    values.append(None if backend is None else backend.to_str())
    return json.dumps(values, sort_keys=True, default=str).encode()


def save_objects(
    train_dataset: Dataset | None,
    eval_dataset: Dataset | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, SavedObject]:
    """The objects by the key of the recipe that names them. Raises UsageError for a tokenizer without a model."""
    if tokenizer is not None and model is None:
        raise UsageError(
            "tokenizer: it does nothing without a model: the one of model.model_name_or_path is used.",
            remedy="Give the model too: model=…, or leave the tokenizer out.",
        )
    saved: dict[str, SavedObject] = {}
    if model is not None:
        saved["model.model_name_or_path"] = SavedObject(save_model(model, tokenizer), "model", "a model in memory")
    for key, dataset in (("train", train_dataset), ("eval", eval_dataset)):
        if dataset is not None:
            saved[f"dataset.{key}"] = save_dataset(dataset, f"{key}_dataset")
    return saved
