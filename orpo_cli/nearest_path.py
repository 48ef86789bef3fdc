"""Nearest path: the existing file or folder that a missing path most likely means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

SCANNED_ENTRIES = 2000  # a folder of data can hold a million files
SEARCH_DEPTH = 3  # folders below the deepest existing one that are searched for the same file name
MIN_SIMILARITY = 0.6
LISTED = 5


def missing_path_remedy(path: Path) -> str:
    """A sentence that names the nearest existing path, or the files of the folder; empty where nothing is near."""
    path = path.expanduser().absolute()
    if found := nearest_path(path):
        return f"Did you mean {found}?"
    folder, missing = _existing_part(path)
    names = sorted(entry.name for entry in _scan(folder))
    if len(missing) > 1 or not names:
        return f'{folder} has no {"folder " if len(missing) > 1 else ""}"{missing[0]}".'
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"The folder {folder} has {', '.join(names[:LISTED])}{more}."


def near_path_remedy(path: Path, otherwise: str, accepts: Callable[[Path], bool] = Path.exists) -> str:
    """A question that names the nearest existing path, if ``accepts`` is true of it; else ``otherwise``."""
    try:
        found = nearest_path(path.expanduser().absolute())
    except (OSError, RuntimeError, ValueError):  # not a path: too long, unknown user, null byte
        return otherwise
    if found is None or not accepts(found):
        return otherwise
    shown = found if path.is_absolute() or not found.is_relative_to(Path.cwd()) else found.relative_to(Path.cwd())
    return f"Did you mean {shown}?"


def nearest_path(path: Path) -> Path | None:
    """Existing path with a similar name, or with the same name in another folder near by; None where there is none."""
    folder, missing = _existing_part(path)
    entries = list(_scan(folder))
    similar = sorted(
        ((_similarity(missing[0], entry.name), entry.name) for entry in entries),
        key=lambda found: (-found[0], found[1]),
    )
    candidates = [folder / name for score, name in similar if score >= MIN_SIMILARITY]
    for candidate in candidates[:LISTED]:
        if len(missing) == 1:
            return candidate
        if candidate.joinpath(*missing[1:]).exists():
            return candidate.joinpath(*missing[1:])
    if folder != Path(folder.anchor) and (same := _find_name(folder, missing[-1])):
        return same
    if len(missing) == 1 or not candidates or not candidates[0].is_dir():
        return None
    return nearest_path(candidates[0].joinpath(*missing[1:]))


def _existing_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The deepest folder of an absolute path that exists, and the parts that do not."""
    folder = next((parent for parent in path.parents if parent.is_dir()), Path(path.anchor))
    return folder, path.relative_to(folder).parts


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(SCANNED_ENTRIES), entries, strict=False):
                if not entry.name.startswith("."):
                    yield entry
    except OSError:
        return


def _similarity(wanted: str, name: str) -> float:
    """Similarity of two names without case; the same name with other suffixes counts as near, the same suffix alone does not."""
    from difflib import SequenceMatcher  # only messages need it

    wanted, name = wanted.lower(), name.lower()
    if wanted == name:
        return 1.0
    stems = wanted.partition(".")[0], name.partition(".")[0]
    if stems[0] == stems[1]:
        return 0.9 + 0.05 * SequenceMatcher(None, wanted, name).ratio()
    whole = SequenceMatcher(None, wanted, name).ratio()
    return min(whole, SequenceMatcher(None, *stems).ratio()) if all(stems) else whole


def _find_name(folder: Path, name: str, depth: int = SEARCH_DEPTH) -> Path | None:
    """A path called ``name`` in the folders below ``folder``, the nearest first."""
    level = [folder]
    for _ in range(depth):
        below = [Path(entry.path) for each in level for entry in _scan(each) if entry.is_dir(follow_symlinks=False)]
        level = below[:SCANNED_ENTRIES]
        if found := next((each / name for each in level if (each / name).exists()), None):
            return found
    return None
