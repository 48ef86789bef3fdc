"""Download of data files from a URL: http, and every storage that fsspec supports (s3, gs, az, hf, …)."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from orpo_cli.data.sources import files
from orpo_cli.data.sources.dataset_card import STANDALONE_YAML
from orpo_cli.errors import DataError, MachineError, OrpoError
from orpo_cli.recipe.did_you_mean import closest_name

TIMEOUT_SECONDS = 30
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class Download(NamedTuple):
    """Downloaded data files, sorted by name; ``is_folder`` where the URL is a folder, whose card and other metadata are there too."""

    paths: list[Path]
    is_folder: bool


def download(url: str, folder: Path) -> Download:
    """Download the data files of ``url`` (one, those of a folder, or those that match a pattern) into ``folder``.

    Raises DataError where there are none or they cannot be downloaded, MachineError where the package for the protocol is not
    installed.
    """
    if url.startswith(("http://", "https://")):
        return Download([_download_http(url, folder)], is_folder=False)
    store, path = _open_store(url)
    try:
        is_pattern = any(sign in path for sign in "*?[")
        is_folder = not is_pattern and store.isdir(path)
        names = store.glob(path) if is_pattern else store.find(path) if is_folder else [path]
        names = sorted(name for name in names if files.is_data_file(name) or (is_folder and _describes(name)))
        if not any(map(files.is_data_file, names)):
            raise DataError(f"{url}: no data file found.", remedy=files.KNOWN)
        targets = _targets(url, names, path if is_folder else None, folder)
        _check_disk_space(url, folder, [store.size(name) for name in names])
        for name, target in zip(names, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(name, str(target))
        return Download([target for target in targets if files.is_data_file(target.name)], is_folder)
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file.", remedy=_nearest_name(store, path) or "Check the path.") from error
    except OrpoError:
        raise
    except Exception as error:  # the backends of fsspec raise errors of any type
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _disk_full(url, folder) from error
        raise DataError(f"{url}: cannot be downloaded: {error}.", remedy="Check access and network.") from error


def _nearest_name(store: Any, path: str) -> str | None:
    """A remedy that names the most similar file of the same folder; None where there is none."""
    missing = PurePosixPath(path)
    try:
        names = [PurePosixPath(name).name for name in store.ls(str(missing.parent), detail=False)]
    except Exception:  # the backends of fsspec raise errors of any type
        return None
    near = closest_name(missing.name, names)
    return f"Did you mean {near}?" if near else None


def _describes(name: str) -> bool:
    """Whether a file describes the dataset in its folder: how the data files are split."""
    return PurePosixPath(name).name in ("README.md", STANDALONE_YAML)


def _targets(url: str, names: list[str], root: str | None, folder: Path) -> list[Path]:
    """Path in ``folder`` of each file, relative to ``root`` or to the folder that all files share."""
    paths = [PurePosixPath(name) for name in names]
    if root is None or not all(path.is_relative_to(root) for path in paths):
        root = os.path.commonpath([path.parent for path in paths])
    relative = [path.relative_to(root) for path in paths]
    if outside := next((path for path in relative if ".." in path.parts), None):
        raise DataError(
            f"{url}: its file {outside} is outside of it.", remedy="Unpack the archive and give the folder."
        )
    return [folder / path for path in relative]


def _open_store(url: str) -> tuple[Any, str]:
    """fsspec's file system for ``url``, and the path in it."""
    import fsspec

    protocol = url.partition("://")[0]
    try:
        store, path = fsspec.core.url_to_fs(url)
        return store, str(path)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        raise MachineError(
            f"{url}: {protocol}:// needs a package that is not installed ({error}).",
            remedy=f"pip install {package}" if package else "Install the package that fsspec names.",
        ) from error
    except FileNotFoundError as error:  # the archive of zip://file::archive.zip
        raise DataError(f"{url}: no such file.", remedy="Check the path.") from error
    except ValueError as error:
        raise DataError(
            f"{url}: fsspec does not know {protocol}://.", remedy="Download the files and give their path."
        ) from error
    except Exception as error:  # the backends of fsspec raise errors of any type
        raise DataError(
            f"{url}: cannot be opened: {error}.", remedy="Check the archive, access and network."
        ) from error


def _check_disk_space(url: str, folder: Path, sizes: list[int | None]) -> None:
    """Raise MachineError where the files do not fit on the disk: a small archive can contain very large ones."""
    if sum(size or 0 for size in sizes) > shutil.disk_usage(folder).free:
        raise _disk_full(url, folder)


def _disk_full(url: str, folder: Path) -> MachineError:
    return MachineError(
        f"{url}: its files do not fit on the disk of {folder.parent}.",
        remedy="Free disk space, or set TMPDIR to a folder on another disk.",
    )


def _download_http(url: str, folder: Path) -> Path:
    """With the standard library: fsspec's http needs aiohttp, which no dependency installs."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException
    from urllib.parse import urlsplit

    try:
        name = PurePosixPath(urlsplit(url).path).name
    except ValueError as error:
        raise DataError(f"{url}: not a URL: {error}.", remedy="Check the URL.") from error
    if not files.is_data_file(name):
        raise files.unsupported_error(url)
    target = folder / name
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
            if response.length:  # bytes that are missing; http.client reports this only when it reads all at once
                raise OSError(f"the server closed the connection {response.length:,} bytes before the end")
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{url}: the server answered {error.code} {error.reason}.",
            remedy="Check the URL, or download the file first.",
        ) from error
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _disk_full(url, folder) from error
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{url}: cannot be downloaded: {reason}.", remedy="Check the network, or download the file first."
        ) from error
    return target
