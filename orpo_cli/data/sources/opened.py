"""Opened source: its splits as named rows, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from orpo_cli.data.sources import files
from orpo_cli.data.sources.arrow_rows import value_bytes
from orpo_cli.data.sources.row_limit import row_limit
from orpo_cli.digest_cache import remembered_digest
from orpo_cli.digests import file_sha256
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source


class Row(NamedTuple):
    """Row as stored. ``name``: source and row number from 1; ``value``: a dict unless the row is malformed."""

    name: str
    value: Any


Rows = Callable[[], Iterator[Row]]  # one split; every call reads it from the start
FileState = tuple[int, int, int]  # size, time of the last change (ns) and inode


@dataclass(frozen=True)
class OpenedSource:
    """Opened source: its location, the fingerprint of its content (None for a stream), and its splits.

    ``files`` of each split: the starts of the names of their rows, in order; empty for tables. The fingerprint covers no names.
    """

    location: str
    fingerprint: str | None
    splits: Mapping[str, Rows]
    paths: Mapping[Path, FileState] = field(default_factory=dict)  # local files as they were before they were hashed
    files: Mapping[str, list[str]] = field(default_factory=dict)

    def check_unchanged(self) -> None:
        """Raise DataError where a file has changed since it was hashed: its rows would be cached under another digest."""
        changed = [path for path, state in self.paths.items() if _file_state(path) != state]
        if changed and files_sha256(list(self.paths)) != self.fingerprint:
            raise DataError(
                f"{changed[0]}: the file changed while it was read.",
                remedy="Run the command again when no other program writes to the file.",
            )


def open_tables(
    location: str, fingerprint: str | None, tables: Mapping[str, Callable[[], Iterator[Any]]], label: str
) -> OpenedSource:
    """Source of named tables; the rows of each are numbered from 1, and limited in size as those of files."""
    limit = row_limit()

    def rows_of(split: str) -> Iterator[Row]:
        name = f"{label}/{split}" if len(tables) > 1 else label
        for number, row in enumerate(tables[split](), 1):
            if value_bytes(row) > limit.size:
                raise limit.error(f"{location}: split {split}: row {number}")
            yield Row(f"{name}:{number}", row)

    return OpenedSource(location, fingerprint, {split: partial(rows_of, split) for split in tables})


def open_files(
    by_split: Mapping[str, list[Path]], source: Source, *, location: str, name: Callable[[Path], str]
) -> OpenedSource:
    """Source of data files; ``name`` gives the start of the names of a file's rows, which are numbered from 1."""

    def rows_of(paths: list[Path]) -> Rows:
        named = [(path, name(path)) for path in paths]
        return lambda: chain.from_iterable(
            (Row(f"{label}:{number}", row) for number, row in files.read_rows(path, source.columns))
            for path, label in named
        )

    every = [path for paths in by_split.values() for path in paths]
    states = {path: _file_state(path) for path in every}
    splits = {split: rows_of(paths) for split, paths in by_split.items()}
    names = {split: [name(path) for path in paths] for split, paths in by_split.items()}
    return OpenedSource(location, files_sha256(every), splits, states, names)


def _file_state(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:  # removed: reading it again raises the error
        return (-1, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def files_sha256(paths: list[Path]) -> str:
    """sha256 of one file, as sha256sum prints it; of several files the sha256 of their digests."""
    digests = []
    for path in paths:
        try:
            digests.append(remembered_digest(path, file_sha256))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
