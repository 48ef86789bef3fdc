"""Data sources: local files, folders and patterns, URLs of data files, and datasets of the hub.

A name that looks like a local path is never sent to the hub. Rows are numbered from 1 within their file or hub split; the
number is part of their name, so that a report can name ``train.jsonl:17``.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from orpo_cli.data.sources import files
from orpo_cli.data.sources.arrow_nulls import null_remover
from orpo_cli.data.sources.arrow_rows import value_bytes
from orpo_cli.data.sources.dataset_card import card_config
from orpo_cli.data.sources.hub import open_hub_dataset
from orpo_cli.data.sources.remote import download
from orpo_cli.data.sources.row_limit import row_limit
from orpo_cli.data.sources.text_rows import COMPRESSION_TOOLS
from orpo_cli.digest_cache import remembered_digest
from orpo_cli.digests import file_sha256
from orpo_cli.errors import DataError, UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.nearest_path import missing_path_remedy
from orpo_cli.recipe.schema import Source
from orpo_cli.temporary_directory import temporary_directory

UNSUPPORTED_SUFFIXES = (".txt", ".zip", ".tar", ".xlsx", ".xls", *COMPRESSION_TOOLS, ".pkl", ".pt", ".db")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # with a namespace: `datasets` would take a bare `json` for a loader


class Row(NamedTuple):
    """Row as stored. ``name``: source and row number from 1; ``value``: a dict unless the row is malformed."""

    name: str
    value: Any


Rows = Callable[[], Iterator[Row]]  # one split; every call reads it from the start
FileState = tuple[int, int, int]  # size, time of the last change (ns) and inode


@dataclass(frozen=True)
class OpenedSource:
    """Opened source: its location, the fingerprint of its content (None for a stream), and its splits."""

    location: str
    fingerprint: str | None
    splits: Mapping[str, Rows]
    paths: Mapping[Path, FileState] = field(default_factory=dict)  # local files as they were before they were hashed

    def check_unchanged(self) -> None:
        """Raise DataError where a file has changed since it was hashed: its rows would be cached under another digest."""
        changed = [path for path, state in self.paths.items() if _file_state(path) != state]
        if changed and _sha256(list(self.paths)) != self.fingerprint:
            raise DataError(
                f"{changed[0]}: the file changed while it was read.",
                remedy="Run the command again when no other program writes to the file.",
            )


@contextmanager
def open_source(source: Source, label: str, note: Callable[[str], None]) -> Iterator[OpenedSource]:
    """Open the source; ``label`` starts the names of its rows.

    Raises DataError where it cannot be read, HubError where the hub refuses or does not answer.
    """
    path = source.path
    if "://" in path:
        _refuse_hub_options(source, "a URL", ("revision",))
        with temporary_directory("download") as folder:
            note(f"downloading {path}")
            paths, is_folder = download(path, folder)
            single = len(paths) == 1 and not is_folder
            try:
                if is_folder:
                    yield _open_folder(
                        folder, source, label, lambda text: note(text.replace(str(folder), path)), url=path
                    )
                else:
                    _refuse_hub_options(source, "a file", ("name",))
                    yield _open_files(
                        {"train": paths},
                        source,
                        location=path,
                        name=lambda file: label if single else f"{label}/{file.relative_to(folder)}",
                    )
            except (DataError, UsageError) as error:  # name the URL, not the local copy
                copy = str(paths[0] if single else folder)
                message, remedy = (text and text.replace(copy, path) for text in (error.message, error.remedy))
                raise type(error)(str(message), remedy=remedy) from error
    elif (local := Path(path).expanduser()).exists() or glob.has_magic(path) or looks_local(path):
        if local.is_dir():
            _refuse_hub_options(source, "a local path", ("revision",))
            yield _open_folder(local.absolute(), source, label, note)
        else:
            _refuse_hub_options(source, "a local path", ("name", "revision"))
            is_pattern = glob.has_magic(path) and not local.exists()
            yield _open_pattern(source, label) if is_pattern else _open_file(local.absolute(), source, label)
    else:
        yield _open_tables(*open_hub_dataset(source, note), label)


def looks_local(path: str) -> bool:
    """Whether a source that does not exist was meant to be a local path, and not a dataset of the hub."""
    return (
        path.startswith((".", "/", "~"))
        or "\\" in path
        or path.lower().endswith((*files.SUFFIXES, *UNSUPPORTED_SUFFIXES))
        or not HUB_ID.fullmatch(path)
    )


def _refuse_hub_options(source: Source, kind: str, options: tuple[str, ...]) -> None:
    given = [key for key in options if getattr(source, key) is not None]
    if given:
        raise UsageError(
            f"dataset source {source.path}: {' and '.join(given)} would do nothing for {kind}; they select within a hub "
            "dataset, and name within a folder whose dataset card has configurations.",
            remedy=f"Remove {' and '.join(given)}.",
        )


def _open_file(path: Path, source: Source, label: str) -> OpenedSource:
    files.check_regular(path)
    if not path.is_file():
        raise DataError(f"{path}: a device or a pipe, not a file.", remedy="Write its content to a file first.")
    if not files.is_data_file(path.name):
        raise files.unsupported_error(str(path), path)
    return _open_files({"train": [path]}, source, location=str(path), name=lambda _: label)


def _open_pattern(source: Source, label: str) -> OpenedSource:
    """Data files that match a pattern (``data/*.jsonl.gz``, ``**`` for folders), sorted by name."""
    pattern = source.path
    found = [Path(name).absolute() for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]
    paths = sorted(path for path in found if path.is_file() and files.is_data_file(path.name))
    if not paths:
        others = f" ({len(found)} other paths match)" if found else ""
        fixed = takewhile(lambda part: not glob.has_magic(part), Path(pattern).expanduser().parts)
        folder = Path(*fixed).absolute()
        near = "" if folder.exists() else missing_path_remedy(folder)
        raise DataError(f"{pattern}: no data file matches{others}.", remedy=near or files.KNOWN)
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return _open_files({"train": paths}, source, location=pattern, name=lambda file: str(file.relative_to(common)))


def _open_folder(
    folder: Path, source: Source, label: str, note: Callable[[str], None], url: str | None = None
) -> OpenedSource:
    """Dataset in a folder: written by ``save_to_disk``, with a dataset card, or data files that their names split.

    ``url``: where the folder was downloaded from.
    """
    location, saved = url or str(folder), is_saved_dataset(folder)
    config = None if saved else card_config(folder, source.name, note)
    if config is None and source.name is not None:
        raise UsageError(
            f"{folder}: no dataset card (README.md) names configurations, so name: {source.name} selects nothing.",
            remedy="Remove name, or set path to a folder or the files within it.",
        )
    if saved:
        return _open_saved_dataset(folder, location, source, label)
    if config is not None:
        by_split, location = config.splits, f"{location} (configuration {config.name})"
    else:
        by_split = _split_by_names(folder, note)
    return _open_files(by_split, source, location=location, name=lambda file: f"{label}/{_relative(file, folder)}")


def _relative(file: Path, folder: Path) -> Path:
    """``file`` as a path from ``folder``; a card can name files beside its folder."""
    return Path(os.path.relpath(file, folder))


def _split_by_names(folder: Path, note: Callable[[str], None]) -> dict[str, list[Path]]:
    """Data files of a folder by split, as ``datasets`` finds them. Raises DataError where there are none."""
    if inner := sorted(path.name for path in folder.iterdir() if is_saved_dataset(path)):
        raise DataError(
            f"{folder}: the folder contains saved datasets: {', '.join(inner)}.",
            remedy=f"Set path to one of them, for example {folder / inner[0]}; for several, give a list of sources.",
        )
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    except (EmptyDatasetError, FileNotFoundError):
        found = {}
    by_split = {
        split: sorted(Path(name) for name in names if files.is_data_file(name)) for split, names in found.items()
    }
    by_split = {str(split): paths for split, paths in by_split.items() if paths}
    if not by_split:
        raise DataError(f"{folder}: the folder contains no data file.", remedy=files.KNOWN)
    used = {path for paths in by_split.values() for path in paths}
    if others := sorted(_data_files(folder) - used):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        names = ", ".join(str(path.relative_to(folder)) for path in others[:3])
        note(f"{folder}: not read, since the name of no split is in their path: {names}{more}")
    return by_split


def _data_files(folder: Path) -> set[Path]:
    """Data files in a folder and below it, without hidden ones and those that describe a dataset."""
    from datasets.data_files import FILES_TO_IGNORE

    found = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found |= {Path(parent, name) for name in names if not name.startswith((".", "__"))}
    return {path for path in found if files.is_data_file(path.name) and path.name not in FILES_TO_IGNORE}


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _open_saved_dataset(folder: Path, location: str, source: Source, label: str) -> OpenedSource:
    """Dataset of ``save_to_disk``. Its own fingerprint does not cover the content of its files, so they are hashed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not (folder / "dataset_dict.json").is_file():
        splits = {"train": folder}
    else:
        names = read_json_object_or_empty(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names:
            raise DataError(f"{folder / 'dataset_dict.json'}: it names no splits.", remedy="Save the dataset again.")
        splits = {str(name): folder / str(name) for name in names}
    tables = {split: partial(_saved_rows, each, source) for split, each in splits.items()}
    return _open_tables(location, _sha256(paths), tables, label)


def _saved_rows(folder: Path, source: Source) -> Iterator[Any]:
    from datasets import load_from_disk

    for file in sorted(folder.glob("*.arrow")):
        files.check_arrow_file(file)
    try:
        table = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder}: the saved dataset cannot be read: {error}", remedy="Save the dataset again."
        ) from error
    yield from map(null_remover(table.features.arrow_schema, source.columns), table)


def _open_tables(
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


def _open_files(
    by_split: Mapping[str, list[Path]], source: Source, *, location: str, name: Callable[[Path], str]
) -> OpenedSource:
    def rows_of(paths: list[Path]) -> Rows:
        named = [(path, name(path)) for path in paths]
        return lambda: chain.from_iterable(
            (Row(f"{label}:{number}", row) for number, row in files.read_rows(path, source.columns))
            for path, label in named
        )

    every = [path for paths in by_split.values() for path in paths]
    states = {path: _file_state(path) for path in every}
    return OpenedSource(
        location, _sha256(every), {split: rows_of(paths) for split, paths in by_split.items()}, paths=states
    )


def _file_state(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:  # removed: reading it again raises the error
        return (-1, 0, 0)
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def _sha256(paths: list[Path]) -> str:
    """sha256 of one file, as sha256sum prints it; of several files the sha256 of their digests."""
    digests = []
    for path in paths:
        try:
            digests.append(remembered_digest(path, file_sha256))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
