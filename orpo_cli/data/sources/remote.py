"""Data files at a URL: http, and every kind of store that fsspec knows (s3, gs, az, hf, …)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from orpo_cli.data.sources import files
from orpo_cli.errors import DataError, MachineError

TIMEOUT_SECONDS = 30
PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}


def download(url: str, folder: Path) -> list[Path]:
    """Fetch the data files that ``url`` names (one, those of a folder, or those that match a pattern) into ``folder``.

    In the order of their names. Raises DataError where there are none or they cannot be fetched, MachineError where the
    package that speaks the protocol is missing.
    """
    if url.startswith(("http://", "https://")):
        return [_over_http(url, folder)]
    import fsspec

    protocol = url.partition("://")[0]
    try:
        store, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        raise MachineError(
            f"{url}: {protocol}:// needs a package that is not installed ({error}).",
            remedy=f"pip install {package}" if package else "Install what fsspec asks for.",
        ) from error
    except ValueError as error:
        raise DataError(
            f"{url}: {protocol}:// is not known to fsspec.", remedy="Download the files and give their path."
        ) from error
    try:
        if any(sign in path for sign in "*?["):
            names = store.glob(path)
        elif store.isdir(path):
            names = store.find(path)
        else:
            names = [path]
        names = sorted(name for name in names if files.is_data_file(name))
        if not names:
            raise DataError(f"{url}: no data file there.", remedy=f"Known: {', '.join(files.SUFFIXES)}.")
        return [_get(store, name, folder / _relative_name(name, names)) for name in names]
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such file.", remedy="Check the path.") from error
    except (OSError, ValueError) as error:  # refused, no network, a disk that is full
        raise DataError(f"{url}: cannot be fetched: {error}.", remedy="Check access and network.") from error


def _get(store: object, name: str, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    store.get_file(name, str(target))  # type: ignore[attr-defined]
    return target


def _relative_name(name: str, names: list[str]) -> str:
    """The name below the folder that all share."""
    parents = [PurePosixPath(each).parent.parts for each in names]
    shared = 0
    while all(len(parts) > shared and parts[shared] == parents[0][shared] for parts in parents):
        shared += 1
    return str(PurePosixPath(*PurePosixPath(name).parts[shared:]))


def _over_http(url: str, folder: Path) -> Path:
    import shutil
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    name = PurePosixPath(urlsplit(url).path).name
    if not files.is_data_file(name):
        raise DataError(
            f"{url}: not a kind of data file that can be read.", remedy=f"Known: {', '.join(files.SUFFIXES)}."
        )
    target = folder / name
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{url}: cannot be fetched: {reason}.", remedy="Check the network, or download the file first."
        ) from error
    return target
