"""Datasets in a folder: written by ``save_to_disk``, with a dataset card, or data files that their names split."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from orpo_cli.data.sources import files
from orpo_cli.data.sources.arrow_nulls import null_remover
from orpo_cli.data.sources.dataset_card import card_config
from orpo_cli.data.sources.media_columns import keep_media_encoded
from orpo_cli.data.sources.opened import OpenedSource, files_sha256, open_files, open_tables
from orpo_cli.errors import DataError, UsageError
from orpo_cli.json_files import read_json_object_or_empty
from orpo_cli.recipe.schema import Source


def open_folder(
    folder: Path, source: Source, label: str, note: Callable[[str], None], url: str | None = None
) -> OpenedSource:
    """Dataset in a folder: written by ``save_to_disk``, with a dataset card, or data files that their names split.

    ``url``: where the folder was downloaded from.
    """
    location, saved = url or str(folder), _is_saved_dataset(folder)
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
    return open_files(by_split, source, location=location, name=lambda file: f"{label}/{_relative(file, folder)}")


def _relative(file: Path, folder: Path) -> Path:
    """``file`` as a path from ``folder``; a card can name files beside its folder."""
    return Path(os.path.relpath(file, folder))


def _split_by_names(folder: Path, note: Callable[[str], None]) -> dict[str, list[Path]]:
    """Data files of a folder by split, as ``datasets`` finds them. Raises DataError where there are none."""
    if inner := sorted(path.name for path in folder.iterdir() if _is_saved_dataset(path)):
        raise DataError(
            f"{folder}: the folder contains saved datasets: {', '.join(inner)}.",
            remedy=f"Set path to one of them, for example {folder / inner[0]}; for several, give a list of sources.",
        )
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    base = glob.escape(str(folder))  # `datasets` takes it as a pattern
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
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


def _is_saved_dataset(folder: Path) -> bool:
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
    return open_tables(location, files_sha256(paths), tables, label)


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
    keep_media_encoded(table)
    yield from map(null_remover(table.features.arrow_schema, source.columns), table)
