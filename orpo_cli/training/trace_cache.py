"""Trace cache: memory traces on disk, so that a second plan of the same model and a training after a plan trace nothing.

A trace depends only on the configuration of the model, the computation, the lengths of the pairs, and the code that runs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cache_dir import cache_dir
from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.json_files import is_number, read_json_object_or_empty

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LIBRARIES = ("torch", "transformers", "peft")
_MAX_AGE_SECONDS = 90 * 24 * 3600  # of a file that no plan has used


def cached_trace(
    config: PreTrainedConfig,
    computation: Computation,
    pairs: Sequence[PairSize],
    trace: Callable[[], Activations],
) -> Activations:
    """The result of ``trace()``, from the cache where it has one; a cache that cannot be read or written is not used.

    Traces of models whose code is not in transformers are not cached. Raises the errors of ``trace``.
    """
    if not type(config).__module__.startswith("transformers."):
        return trace()
    values = config.to_dict()
    values.pop("_name_or_path", None)
    key = json.dumps([values, asdict(computation), [tuple(pair) for pair in pairs], _code()], default=str)
    digest = hashlib.sha256(key.encode()).hexdigest()
    path = cache_dir() / "traces" / f"{digest[:32]}.json"
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home directory
        if found := _read(path, digest):
            path.touch()
            return found
    result = trace()
    if result.untraced is None:
        with suppress(OSError, RuntimeError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_old(path.parent)
            text = json.dumps(asdict(result))
            atomic_write_text(path, json.dumps({"key": digest, "sha256": _sha256(text), "activations": text}))
    return result


def _read(path: Path, digest: str) -> Activations | None:
    document = read_json_object_or_empty(path) if path.is_file() else {}
    text = document.get("activations")
    if document.get("key") != digest or not isinstance(text, str) or document.get("sha256") != _sha256(text):
        return None
    values: dict[str, Any] = json.loads(text)
    is_whole = values.keys() == {field.name for field in fields(Activations)}
    numbers = [value for name, value in values.items() if name != "untraced"]
    return Activations(**values) if is_whole and all(map(is_number, numbers)) else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _code() -> str:
    """Digest of the code that a trace runs: the engine, the trace itself, and the versions of the libraries."""
    folder = Path(__file__).parent
    names = ("memory_trace", "allocation_counter", "traced_model", "out_of_memory")
    modules = [*folder.glob("engine/*.py"), *(folder / f"{name}.py" for name in names)]
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in _LIBRARIES).encode())
    for module in sorted(modules):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _remove_old(folder: Path) -> None:
    oldest = time.time() - _MAX_AGE_SECONDS
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
