"""Weight files of a base model: where they are, and their digests, by which a resumed run recognizes its base."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from orpo_cli.digests import join_digests, segment_digest, segment_starts
from orpo_cli.json_files import read_json_object
from orpo_cli.model.load_errors import explain_load_errors
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_THREADS = 4  # they wait for the disk
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


class BaseDigests:
    """Digests of the files that decide the weights of a base: its weights and config.json, or its GGUF file.

    Also of the Python files of a local model with ``trust_remote_code``.

    In the context, threads read local files while data and model are prepared: a large model takes seconds, on a network disk
    minutes. A file of the hub's cache has the digest that the hub gives it.
    """

    def __init__(self, source: ModelSource[ModelSection]) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="base-digest")
        self._segments: dict[Path, list[Future[bytes]]] | None = None

    def __enter__(self) -> BaseDigests:
        if self._source.location.kind != "hub":  # else its files may have to be downloaded first
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> dict[str, str]:
        """The digest of each file by its name, when all are read. Raises OSError, and the errors of ``find_weight_files``."""
        found = self._start()
        return {
            path.name: f"xxh3:{join_digests(each.result() for each in segments)}" if segments else _hub_digest(path)
            for path, segments in found.items()
        }

    def _start(self) -> dict[Path, list[Future[bytes]]]:
        if self._segments is None:
            self._segments = {path: self._read(path) for path in self._files()}
        return self._segments

    def _files(self) -> list[Path]:
        source = self._source
        if source.location.kind == "gguf" and source.location.path is not None:
            return [source.location.path]
        with explain_load_errors(source.section.model_name_or_path):
            config = _cached_file(source, "config.json")
            files = [*([config] if config is not None else []), *find_weight_files(source)]
        if source.section.trust_remote_code and source.location.path is not None:
            files += sorted(source.location.path.glob("*.py"))
        return files

    def _read(self, path: Path) -> list[Future[bytes]]:
        if _hub_digest(path):
            return []
        return [self._pool.submit(segment_digest, path, start) for start in segment_starts(path.stat().st_size)]


def _hub_digest(path: Path) -> str:
    """The digest in the name of a file in the hub's cache; empty for another file."""
    blob = path.resolve()
    is_blob = path.is_symlink() and blob.parent.name == "blobs" and _HUB_BLOB.fullmatch(blob.name)
    return f"hub:{blob.name}" if is_blob else ""


def _cached_file(source: ModelSource[ModelSection], name: str) -> Path | None:
    from transformers.utils import cached_file

    options = source.hub_options
    options.pop("trust_remote_code")
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    found = cached_file(source.pretrained_name, name, **options, **quiet)
    return None if found is None else Path(found)
