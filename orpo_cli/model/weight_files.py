"""Weight files of a base model: where they are, and their digests, by which a resumed run recognizes its base."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orpo_cli.digests import file_xxh3
from orpo_cli.json_files import read_json_object
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def find_weight_files(source: ModelSource[ModelSection]) -> list[Path]:
    """The files that from_pretrained loads weights from, downloaded if they are on the hub; empty where it has none of them.

    Raises UsageError for an index that cannot be read, and the errors of the hub.
    """
    from transformers.utils.hub import get_checkpoint_shard_files

    for single in SINGLE_FILES:
        if (found := _cached_file(source, single)) is not None:
            return [found]
        if (index := _cached_file(source, f"{single}.index.json")) is not None:
            options = source.hub_options
            options.pop("trust_remote_code")
            if not isinstance(read_json_object(index).get("weight_map"), dict):
                return []
            shards, _ = get_checkpoint_shard_files(source.pretrained_name, str(index), **options)
            return sorted(Path(each) for each in shards)
    return []


def base_digests(source: ModelSource[ModelSection]) -> dict[str, str]:
    """The digest of each file that decides the weights of the base, by name: its weights and config.json, or its GGUF file.

    A file of the hub's cache has the digest that the hub gives it. Every other file is read, 16 GB in a few seconds where the
    system has it in memory.
    """
    if source.location.kind == "gguf" and source.location.path is not None:
        files = [source.location.path]
    else:
        with explain_load_errors(source.section.model_name_or_path):
            config = _cached_file(source, "config.json")
            files = [*([config] if config is not None else []), *find_weight_files(source)]
    with ThreadPoolExecutor(4) as pool:
        return dict(zip((path.name for path in files), pool.map(_digest, files), strict=True))


def _digest(path: Path) -> str:
    blob = path.resolve().name
    is_blob = path.is_symlink() and path.resolve().parent.name == "blobs" and _HUB_BLOB.fullmatch(blob)
    return f"hub:{blob}" if is_blob else f"xxh3:{file_xxh3(path)}"


def _cached_file(source: ModelSource[ModelSection], name: str) -> Path | None:
    from transformers.utils import cached_file

    options = source.hub_options
    options.pop("trust_remote_code")
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    found = cached_file(source.pretrained_name, name, **options, **quiet)
    return None if found is None else Path(found)
