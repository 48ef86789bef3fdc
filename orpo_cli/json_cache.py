"""JSON cache: small results that take seconds to compute, a file each, keyed by everything that decides them.

A file that is damaged, belongs to another key, or cannot be read or written is not used: the result is computed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cache_dir import cache_dir
from orpo_cli.json_files import read_json_object_or_empty

_MAX_AGE_SECONDS = 90 * 24 * 3600  # of a file that no command has used


def read_cached(kind: str, key: object) -> Any | None:
    """The value that ``write_cached`` stored under ``key``; None where there is none, or its file is damaged.

    ``kind``: the folder in the cache directory. ``key``: what decides the value, JSON-ready; other objects count by their text.
    """
    digest = _key_digest(key)
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home directory
        path = _path(kind, digest)
        document = read_json_object_or_empty(path) if path.is_file() else {}
        text = document.get("value")
        if document.get("key") == digest and isinstance(text, str) and document.get("sha256") == _sha256(text):
            with suppress(OSError):  # a shared cache that this user may only read
                path.touch()
            return json.loads(text)
    return None


def write_cached(kind: str, key: object, value: object) -> None:
    """Store a JSON-ready ``value`` under ``key``; nothing where the cache cannot be written."""
    digest, text = _key_digest(key), json.dumps(value)
    with suppress(OSError, RuntimeError):
        path = _path(kind, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(path.parent)
        atomic_write_text(path, json.dumps({"key": digest, "sha256": _sha256(text), "value": text}))


def code_digest(libraries: Iterable[str], modules: Iterable[Path]) -> str:
    """Digest of the code that computes a value: the versions of installed libraries, and the content of modules."""
    digest = hashlib.sha256("".join(f"{name} {version(name)}\n" for name in libraries).encode())
    for module in sorted(modules):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _path(kind: str, digest: str) -> Path:
    return cache_dir() / kind / f"{digest[:32]}.json"


def _key_digest(key: object) -> str:
    return _sha256(json.dumps(key, default=str))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _remove_old(folder: Path) -> None:
    oldest = time.time() - _MAX_AGE_SECONDS
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
