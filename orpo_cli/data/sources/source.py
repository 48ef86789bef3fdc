"""Data sources: local files, folders and patterns, URLs of data files, and datasets of the hub.

A name that looks like a local path is never sent to the hub. Rows are numbered from 1 within their file or hub split; the
number is part of their name, so that a report can name ``train.jsonl:17``.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from orpo_cli.data.sources import files
from orpo_cli.data.sources.folder import open_folder
from orpo_cli.data.sources.hub import open_hub_dataset
from orpo_cli.data.sources.opened import OpenedSource, open_files, open_tables
from orpo_cli.data.sources.remote import download
from orpo_cli.data.sources.text_rows import COMPRESSION_TOOLS
from orpo_cli.errors import DataError, UsageError
from orpo_cli.nearest_path import missing_path_remedy
from orpo_cli.recipe.schema import Source
from orpo_cli.temporary_directory import temporary_directory

UNSUPPORTED_SUFFIXES = (".txt", ".zip", ".tar", ".xlsx", ".xls", *COMPRESSION_TOOLS, ".pkl", ".pt", ".db")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # with a namespace: `datasets` would take a bare `json` for a loader


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
                    yield open_folder(
                        folder, source, label, lambda text: note(text.replace(str(folder), path)), url=path
                    )
                else:
                    _refuse_hub_options(source, "a file", ("name",))
                    yield open_files(
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
            yield open_folder(local.absolute(), source, label, note)
        else:
            _refuse_hub_options(source, "a local path", ("name", "revision"))
            is_pattern = glob.has_magic(path) and not local.exists()
            yield _open_pattern(source, label) if is_pattern else _open_file(local.absolute(), source, label)
    else:
        yield open_tables(*open_hub_dataset(source, note), label)


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
    return open_files({"train": [path]}, source, location=str(path), name=lambda _: label)


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
    return open_files({"train": paths}, source, location=pattern, name=lambda file: str(file.relative_to(common)))
