"""Where rows come from: local files, folders and patterns, URLs of data files, and datasets of the hub.

What looks like a local path is never sent to the hub. Rows are numbered from 1 within their file (or their hub split) and
carry that as their name, so that a report can say ``train.jsonl:17``.
"""

from __future__ import annotations

import glob
import hashlib
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from orpo_cli.data.sources import files
from orpo_cli.data.sources.hub import open_hub_dataset
from orpo_cli.data.sources.remote import download
from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.schema import Source

UNSUPPORTED_SUFFIXES = (".txt", ".zip", ".tar", ".xlsx", ".xls", ".zst", ".bz2", ".xz", ".gz", ".pkl", ".pt", ".db")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # a bare name is no hub id: `datasets` would take `json` for a reader


class Row(NamedTuple):
    """One row as it was stored. ``name`` is source and row number from 1; ``value`` is a dict unless it is malformed."""

    name: str
    value: Any


Rows = Callable[[], Iterator[Row]]  # one split; every call reads it again from the start


@dataclass(frozen=True)
class OpenedSource:
    """A source that was found: where it was, what identifies its content, and its splits."""

    location: str
    fingerprint: str | None
    splits: Mapping[str, Rows]


@dataclass(frozen=True)
class SampledRows:
    """The rows that a source contributes. ``available`` counts the split's rows where max_samples drew from them."""

    rows: Iterator[Row]
    available: int | None


@contextmanager
def open_source(source: Source, label: str, note: Callable[[str], None]) -> Iterator[OpenedSource]:
    """Find the source; ``label`` begins the names of its rows.

    Raises DataError where it cannot be read, HubError where the hub refuses or does not answer.
    """
    path = source.path
    if "://" in path:
        _refuse_hub_options(source, "a URL")
        with tempfile.TemporaryDirectory(prefix="orpo-") as folder:
            note(f"fetching {path}")
            fetched = download(path, Path(folder))
            try:
                yield _open_files(
                    {"train": fetched},
                    location=path,
                    name=lambda file: label if len(fetched) == 1 else f"{label}/{file.relative_to(folder)}",
                )
            except DataError as error:  # name the URL, not the copy
                copy = str(fetched[0]) if len(fetched) == 1 else folder
                raise DataError(error.message.replace(copy, path), remedy=error.remedy) from error
    elif glob.has_magic(path) and not Path(path).expanduser().exists():
        _refuse_hub_options(source, "a local path")
        yield _open_pattern(path, label)
    elif (local := Path(path).expanduser()).exists() or _looks_local(path):
        _refuse_hub_options(source, "a local path")
        yield _open_path(local, label)
    else:
        location, fingerprint, tables = open_hub_dataset(source, note)
        splits = {
            split: _number_rows(f"{label}/{split}" if len(tables) > 1 else label, read)
            for split, read in tables.items()
        }
        yield OpenedSource(location, fingerprint, splits)


def sample_rows(source_rows: OpenedSource, source: Source, seed: int) -> SampledRows:
    """The rows of ``source.split``, of which ``max_samples`` are drawn with ``seed`` before any rule looks at them.

    The drawn rows stay in the order of the source; the same seed and the same rows give the same draw.
    """
    if source.streaming:
        return SampledRows(_first_rows(source_rows, source), available=None)
    from datasets import ReadInstruction

    wanted = {re.split(r"[\[(]", part.strip())[0] for part in source.split.split("+")}
    unknown = wanted - set(source_rows.splits)
    if unknown:
        raise DataError(
            f"{source.path}: no split {', '.join(sorted(unknown))}; it has {', '.join(source_rows.splits)}.",
            remedy="Set split to one of these, with a slice if you like: train[:100]. A single file is all train.",
        )
    if source.split in source_rows.splits and source.max_samples is None:
        return SampledRows(source_rows.splits[source.split](), available=None)
    counts = {split: sum(1 for _ in source_rows.splits[split]()) for split in sorted(wanted)}
    try:
        parts = ReadInstruction.from_spec(source.split).to_absolute(counts)
    except (AssertionError, ValueError) as error:
        raise DataError(
            f"{source.path}: split {source.split!r} cannot be read: {error}",
            remedy="Write it as train[:100] or train[10%:20%].",
        ) from error
    positions = [(part.splitname, index) for part in parts for index in range(part.from_ or 0, part.to or 0)]
    available = len(positions)
    if source.max_samples is not None and source.max_samples < available:
        drawn = random.Random(seed).sample(range(available), source.max_samples)
        positions = [positions[index] for index in sorted(drawn)]
    order = dict.fromkeys(split for split, _ in positions)
    keep = {split: {index for name, index in positions if name == split} for split in order}
    rows = (row for split in order for index, row in enumerate(source_rows.splits[split]()) if index in keep[split])
    return SampledRows(rows, available=available if source.max_samples is not None else None)


def _first_rows(opened: OpenedSource, source: Source) -> Iterator[Row]:
    """The rows of a streamed split from its start, ``max_samples`` of them at most."""
    if source.split not in opened.splits:
        raise DataError(
            f"{source.path}: a streamed source has no split {source.split}; it has {', '.join(opened.splits)}.",
            remedy="Name one of these, without a slice: how many rows it has shows only at its end.",
        )
    return islice(opened.splits[source.split](), source.max_samples)


def _looks_local(path: str) -> bool:
    return (
        path.startswith((".", "/", "~"))
        or "\\" in path
        or path.lower().endswith((*files.SUFFIXES, *UNSUPPORTED_SUFFIXES))
        or not HUB_ID.fullmatch(path)
    )


def _refuse_hub_options(source: Source, what: str) -> None:
    given = [key for key in ("name", "revision") if getattr(source, key) is not None]
    if given:
        raise UsageError(
            f"dataset source {source.path}: {' and '.join(given)} would do nothing for {what}; they choose within a hub "
            "dataset.",
            remedy=f"Remove {' and '.join(given)}.",
        )


def _open_path(path: Path, label: str) -> OpenedSource:
    path = path.absolute()
    if path.is_dir():
        return _open_folder(path, label)
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder.",
            remedy="A relative path starts at the current directory; a hub dataset is written namespace/name.",
        )
    if not files.is_data_file(path.name):
        raise DataError(
            f"{path}: not a kind of data file that can be read.", remedy=f"Known: {', '.join(files.SUFFIXES)}."
        )
    return _open_files({"train": [path]}, location=str(path), name=lambda _: label)


def _open_pattern(pattern: str, label: str) -> OpenedSource:
    """The data files that a pattern names (``data/*.jsonl.gz``, ``**`` for folders), in the order of their names."""
    found = [Path(name).absolute() for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]
    paths = sorted(path for path in found if path.is_file() and files.is_data_file(path.name))
    if not paths:
        others = f" ({len(found)} other paths match)" if found else ""
        raise DataError(f"{pattern}: no data file matches{others}.", remedy=f"Known: {', '.join(files.SUFFIXES)}.")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return _open_files({"train": paths}, location=pattern, name=lambda file: str(file.relative_to(common)))


def _open_folder(folder: Path, label: str) -> OpenedSource:
    """A folder of data files, split by their names as ``datasets`` does, or one written by ``save_to_disk``."""
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _open_saved_dataset(folder, label)
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
        raise DataError(f"{folder}: the folder holds no data file.", remedy=f"Known: {', '.join(files.SUFFIXES)}.")
    return _open_files(by_split, location=str(folder), name=lambda file: f"{label}/{file.relative_to(folder)}")


def _open_saved_dataset(folder: Path, label: str) -> OpenedSource:
    from datasets import Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the saved dataset cannot be read: {error}") from error
    tables = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    digest = hashlib.sha256("".join(table._fingerprint for table in tables.values()).encode()).hexdigest()
    return OpenedSource(
        str(folder),
        digest,
        {
            split: _number_rows(f"{label}/{split}" if len(tables) > 1 else label, partial(iter, table))
            for split, table in tables.items()
        },
    )


def _number_rows(label: str, read: Callable[[], Iterator[Any]]) -> Rows:
    """What ``read`` gives, numbered from 1."""
    return lambda: (Row(f"{label}:{number}", row) for number, row in enumerate(read(), 1))


def _open_files(by_split: Mapping[str, list[Path]], location: str, name: Callable[[Path], str]) -> OpenedSource:
    def rows_of(paths: list[Path]) -> Rows:
        named = [(path, name(path)) for path in paths]
        return lambda: chain.from_iterable(
            (Row(f"{label}:{number}", row) for number, row in files.read_rows(path)) for path, label in named
        )

    digest = _sha256([path for paths in by_split.values() for path in paths])
    return OpenedSource(location, digest, {split: rows_of(paths) for split, paths in by_split.items()})


def _sha256(paths: list[Path]) -> str:
    """Of one file its digest, as sha256sum prints it; of several the digest of their digests."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
