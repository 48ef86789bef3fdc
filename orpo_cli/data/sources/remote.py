"""Download of data files from a URL: http, and every storage that fsspec supports (s3, gs, az, hf, …)."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from orpo_cli.data.sources import files
from orpo_cli.errors import DataError, MachineError, OrpoError

TIMEOUT_SECONDS = 30
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


def download(url: str, folder: Path) -> list[Path]:
    """Download the data files of ``url`` (one, those of a folder, or those that match a pattern) into ``folder``.

    Sorted by name. Raises DataError where there are none or they cannot be downloaded, MachineError where the package for the
    protocol is not installed.
    """
    if url.startswith(("http://", "https://")):
        return [_download_http(url, folder)]
    store, path = _open_store(url)
    try:
        if any(sign in path for sign in "*?["):
            names = store.glob(path)
        elif store.isdir(path):
            names = store.find(path)
        else:
            names = [path]
        names = sorted(name for name in names if files.is_data_file(name))
        if not names:
            raise DataError(f"{url}: no data file found.", remedy=files.KNOWN)
        common = os.path.commonpath([PurePosixPath(name).parent for name in names])
        targets = [folder / PurePosixPath(name).relative_to(common) for name in names]
        _check_disk_space(url, folder, [store.size(name) for name in names])
        for name, target in zip(names, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(name, str(target))
        return targets
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file.", remedy="Check the path.") from error
    except OrpoError:
        raise
    except Exception as error:  # the backends of fsspec raise errors of any type
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _disk_full(url, folder) from error
        raise DataError(f"{url}: cannot be downloaded: {error}.", remedy="Check access and network.") from error


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
