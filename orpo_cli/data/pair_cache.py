"""Pair cache: tokenized pairs on disk, keyed by everything that decides them, so that they are prepared once.

An entry is a folder ``pairs/KEY`` of the cache directory, with the pairs of one source and the counts of its rows. The key is
the digest of the data, the options for reading it, the tokenizer with its chat template, the maximum lengths, and the code of
this package. An entry that is damaged is prepared again. ``ORPO_PAIR_CACHE=0`` disables the cache.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.cache_dir import cache_dir
from orpo_cli.cache_entry import cached_entry
from orpo_cli.errors import MachineError
from orpo_cli.model import chat_template_errors
from orpo_cli.redaction import redact_record
from orpo_cli.temporary_directory import TemporaryDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIRS_FILE, REPORT_FILE = "pairs.arrow", "report.json"
UNUSED_DAYS = 30  # an entry that no run read for this long is removed when another is written

_prepared_here: set[Path] = set()  # entries that this process wrote

Prepare = Callable[[Path], dict[str, Any]]


def load_or_prepare(
    key: dict[str, Any] | None, prepare: Prepare, note: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """File of pairs and row counts, from the cache, or else as ``prepare(file)`` writes and returns them.

    ``key`` None: the data has no fingerprint (a stream), so the pairs are not cached. Several processes with the same key wait
    for the first. Raises MachineError where the disk is full, and the errors of ``prepare``.
    """
    if key is None or not is_cache_enabled():
        return _prepare_uncached(prepare)
    entry = cache_dir() / "pairs" / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    def create(folder: Path) -> None:
        _remove_unused_entries(entry.parent)
        try:
            with _disk_errors(entry.parent, "ORPO_CACHE"):
                report = prepare(folder / PAIRS_FILE)
                (folder / REPORT_FILE).write_text(
                    json.dumps(redact_record(report), ensure_ascii=False), encoding="utf-8"
                )
        except MachineError as error:
            if not folder.is_dir():
                raise FileNotFoundError(ENOENT, "the directory was removed") from error
            raise

    try:
        if not cached_entry(entry, create, note, what="prepares the same pairs"):
            _prepared_here.add(entry)
        elif entry not in _prepared_here:
            note(f"using pairs that are already prepared, in {entry.parent}")
        return entry / PAIRS_FILE, json.loads((entry / REPORT_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        note(f"{entry.parent} cannot be written ({error.strerror or error}): the pairs are not cached")
        return _prepare_uncached(prepare)


def is_cache_enabled() -> bool:
    """Whether prepared pairs are cached."""
    return os.environ.get("ORPO_PAIR_CACHE") != "0"


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of everything that decides the token ids of a text: vocabulary, merges, added tokens, template, versions."""
    import tokenizers
    import transformers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = (
        type(tokenizer).__name__,
        model,
        json.dumps(tokenizer.chat_template, sort_keys=True),
        str(sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())),
        tokenizers.__version__,
        transformers.__version__,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def code_key() -> str:
    """Digest of all modules of this package and of the end of a completion, so that a change of code invalidates the cache."""
    modules = [*sorted(Path(__file__).parent.rglob("*.py")), Path(chat_template_errors.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in modules)).hexdigest()


def _prepare_uncached(prepare: Prepare) -> tuple[Path, dict[str, Any]]:
    """Prepare in a temporary folder that is removed when the process ends."""
    parent = tempfile.gettempdir()
    with _disk_errors(Path(parent), "TMPDIR"):
        folder = Path(tempfile.mkdtemp(dir=_directory_of_process(parent, os.getpid())))
        return folder / PAIRS_FILE, prepare(folder / PAIRS_FILE)


@cache
def _directory_of_process(parent: str, process: int) -> Path:
    """One temporary directory for all pairs, since its lock takes a file handle."""
    directory = TemporaryDirectory("pairs")
    atexit.register(directory.remove)
    return directory.path


@contextmanager
def _disk_errors(folder: Path, variable: str) -> Iterator[None]:
    """Convert an OSError on ``folder`` to a MachineError; the environment variable ``variable`` sets another folder."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"the prepared pairs cannot be written to {folder}: {error.strerror or error}.",
            remedy=f"Free disk space, or set {variable} to a folder on another disk.",
        ) from error


def _remove_unused_entries(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for entry in folder.iterdir():
        with suppress(OSError):  # another process removed it
            if entry.is_dir() and entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)
