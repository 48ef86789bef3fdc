"""Hub datasets, loaded with ``datasets``; its errors converted to errors with a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orpo_cli.data.sources.arrow_nulls import null_remover
from orpo_cli.data.sources.files import check_arrow_file
from orpo_cli.data.sources.media_columns import keep_media_encoded
from orpo_cli.errors import DataError, HubError, HubRefused, OrpoError, hub_error_type
from orpo_cli.hub_status import hub_reachable, response_behind
from orpo_cli.nearest_path import nearest_path
from orpo_cli.os_errors import explain_os_error
from orpo_cli.recipe.schema import Source

COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG_ERROR = re.compile(r"(?:available configs|not found\. Available): (\[.*\])")  # of `datasets`
NAME = re.compile(r"'([^']+)'")


def open_hub_dataset(
    source: Source, note: Callable[[str], None]
) -> tuple[str, str | None, dict[str, Callable[[], Iterator[Any]]]]:
    """(location, commit where known, split name → function that reads its rows from the start) of a hub dataset.

    A cached copy is used where the hub does not answer. Rows of a streamed source are downloaded while they are read, so
    reading them raises the same errors.

    Raises HubError where the hub refuses or cannot be reached, DataError where the repository is not a dataset.
    """
    import datasets

    online = hub_reachable()
    note(
        f"loading {source.path} from the hub"
        if online
        else f"the hub does not answer: looking for a cached copy of {source.path}"
    )
    try:
        with _offline_unless(online):
            builder = datasets.load_dataset_builder(source.path, name=source.name, revision=source.revision)
            if source.streaming:
                loaded = builder.as_streaming_dataset()
            else:
                builder.download_and_prepare()
                loaded = builder.as_dataset()
    except Exception as error:
        converted = convert_error(error, source)
        if converted is None:
            raise
        raise converted from error
    if not online:
        _check_cached_revision(builder.hash, source, note)
    tables: dict[str, Callable[[], Iterator[Any]]] = {
        str(split): partial(_read_rows, table, source) for split, table in loaded.items()
    }
    commit = builder.hash if COMMIT.fullmatch(builder.hash or "") else source.revision
    return f"hub:{source.path}", commit, tables


@contextmanager
def _offline_unless(online: bool) -> Iterator[None]:
    """Context in which `datasets` uses its cache at once unless the hub is reachable; otherwise it retries for 30 s before."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not online
    try:
        yield
    finally:  # a Python program may use `datasets` later
        datasets.config.HF_HUB_OFFLINE = before


def _read_rows(table: Any, source: Source) -> Iterator[Any]:
    features = getattr(table, "features", None)  # a stream may not know them
    remove_nulls = null_remover(features.arrow_schema if features is not None else None, source.columns)
    keep_media_encoded(table)
    for file in {each["filename"] for each in getattr(table, "cache_files", ())}:
        check_arrow_file(Path(file))
    number = 0
    try:
        for row in table:
            yield remove_nulls(row)
            number += 1
    except Exception as error:
        converted = convert_error(error, source)
        if converted is None:
            raise
        raise type(converted)(
            f"{source.path}: cannot be read after row {number}: {str(error).strip().rstrip('.')}.",
            remedy=converted.remedy,
        ) from error


def _no_local_path(path: str) -> str:
    local = Path(path).absolute()
    near = nearest_path(local)
    return f"{local} is no local path either" + (f" (the nearest is {near})" if near else "")


def _check_cached_revision(commit: str | None, source: Source, note: Callable[[str], None]) -> None:
    """Raise HubError where the cached copy may not be the requested revision: the cache returns its newest copy."""
    if source.revision not in (None, commit):
        raise HubError(
            f"{source.path}: the hub cannot be reached, and the cached copy (commit {commit}) may not be revision "
            f"{source.revision}.",
            remedy=f"Check the network, or set revision to {commit}.",
        )
    note(f"using the cached copy of {source.path}, commit {commit}")


def convert_error(error: Exception, source: Source) -> OrpoError | None:
    """Error for the user in place of an error of ``datasets``; None for an unknown one."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    if limit := explain_os_error(error, source.path, "Free disk space, or set HF_HOME to a folder on another disk."):
        return limit
    message = str(error).strip().rstrip(".")
    if isinstance(error, DatasetNotFoundError):
        return HubRefused(
            f"{source.path}: {message}.",
            remedy=f"Check the name ({_no_local_path(source.path)}); for a private or gated dataset "
            "request access on its page and run `hf auth login` or set HF_TOKEN.",
        )
    if not isinstance(error, DatasetGenerationError) and (response := response_behind(error)):
        kind = hub_error_type(response.response.status_code)
        answered, remedy = ("the hub is busy or has a problem", "Try again later.")
        if kind is HubRefused:
            answered, remedy = ("the hub refused", "Run `hf auth login` or set HF_TOKEN.")
        return kind(f"{source.path}: {answered}: {str(response).splitlines()[0].rstrip('.')}.", remedy=remedy)
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(("httpx", "httpcore")):
        return HubError(
            f"{source.path}: the hub cannot be reached and no copy of the dataset is cached; {_no_local_path(source.path)}.",
            remedy="Check the network, or download the dataset on a machine with network: "
            f"`hf download --repo-type dataset {source.path} --local-dir DIR`, and set path to DIR.",
        )
    if isinstance(error, DatasetGenerationError):
        return DataError(f"{source.path}: the dataset's files cannot be read: {error.__cause__ or message}")
    if isinstance(error, ValueError) and (configs := CONFIG_ERROR.search(message)):
        problem = "several configurations:" if source.name is None else f"no configuration {source.name!r}, but"
        return DataError(
            f"{source.path}: the dataset has {problem} {', '.join(NAME.findall(configs[1]))}.",
            remedy="Set name to one of them; for several, give a list of sources.",
        )
    if isinstance(error, ValueError | OSError):  # an unknown configuration, no data files, a full disk
        return DataError(f"{source.path}: {message}.")
    return None
