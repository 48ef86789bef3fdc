"""Nearest path: the existing file or folder that a missing path most likely means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

SCANNED_ENTRIES = 2000  # a folder of data can hold a million files
SEARCH_DEPTH = 3  # folders below the deepest existing one that are searched for the same file name
MIN_SIMILARITY = 0.6
SIMILAR_DEPTH, MIN_SIMILARITY_ELSEWHERE = 2, 0.75  # of a file in another folder
LISTED = 5

Accepts = Callable[[Path], bool]


def missing_path_remedy(path: Path, accepts: Accepts = Path.exists) -> str:
    """A sentence that names the nearest existing path of which ``accepts`` is true, or the files of the folder.

    Empty where nothing is near.
    """
    absolute = _absolute(path)
    if found := nearest_path(absolute, accepts):
        return f"Did you mean {_shown(found, path)}?"
    folder, missing = _existing_part(absolute)
    names = sorted(entry.name for entry in _scan(folder))
    if len(missing) > 1 or not names:
        return f'{folder} has no {"folder " if len(missing) > 1 else ""}"{missing[0]}".'
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"The folder {folder} has {', '.join(names[:LISTED])}{more}."


def near_path_remedy(path: Path, otherwise: str, accepts: Accepts = Path.exists) -> str:
    """A question that names the nearest existing path of which ``accepts`` is true; else ``otherwise``."""
    try:
        found = nearest_path(_absolute(path), accepts)
    except (OSError, RuntimeError, ValueError):  # not a path: too long, unknown user, null byte
        return otherwise
    return otherwise if found is None else f"Did you mean {_shown(found, path)}?"


def nearest_path(path: Path, accepts: Accepts = Path.exists) -> Path | None:
    """Existing path with a similar name, or with the same or nearly the same name in another folder near by, of which ``accepts``
    is true; None where there is none.
    """
    folder, missing = _existing_part(path)
    similar = sorted(
        ((_similarity(missing[0], entry.name), entry.name) for entry in _scan(folder)),
        key=lambda found: (-found[0], found[1]),
    )
    candidates = [folder / name for score, name in similar if score >= MIN_SIMILARITY]
    for candidate in candidates[:LISTED]:
        found = candidate.joinpath(*missing[1:])
        if found.exists() and accepts(found):
            return found
    searched = [each for each in dict.fromkeys((folder, Path.cwd())) if each != Path(each.anchor)]
    for each in searched:
        if same := _find_name(each, missing[-1], accepts):
            return same
    if len(missing) > 1 and candidates and candidates[0].is_dir():
        if near := nearest_path(candidates[0].joinpath(*missing[1:]), accepts):
            return near
    return next((near for each in searched if (near := _find_similar(each, missing[-1], accepts))), None)


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    return path.resolve() if ".." in path.parts else path.absolute()


def _shown(found: Path, given: Path) -> Path:
    """``found`` as a relative path where the user gave one and it is below the current directory."""
    is_relative = not given.expanduser().is_absolute() and found.is_relative_to(Path.cwd())
    return found.relative_to(Path.cwd()) if is_relative else found


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


def _find_name(folder: Path, name: str, accepts: Accepts) -> Path | None:
    """A path called ``name`` in ``folder`` or below, the nearest first."""
    for level in folder_levels(folder, SEARCH_DEPTH):
        paths = (each / name for each in level)
        if found := next((path for path in paths if path.exists() and accepts(path)), None):
            return found
    return None


def _find_similar(folder: Path, name: str, accepts: Accepts) -> Path | None:
    """The path in ``folder`` or below whose name is most similar to ``name``; of several, the nearest."""
    entries = (
        Path(entry.path) for level in folder_levels(folder, SIMILAR_DEPTH) for each in level for entry in _scan(each)
    )
    scored = [(_similarity(name, path.name), path) for path in islice(entries, SCANNED_ENTRIES)]
    near = sorted((each for each in scored if each[0] >= MIN_SIMILARITY_ELSEWHERE), key=lambda each: -each[0])
    return next((path for _, path in near if accepts(path)), None)


def folder_levels(folder: Path, depth: int) -> Iterator[list[Path]]:
    """``folder``, then the folders in it, then those in them, down to ``depth``; hidden ones and links are left out."""
    level = [folder]
    yield level
    for _ in range(depth):
        below = [Path(entry.path) for each in level for entry in _scan(each) if entry.is_dir(follow_symlinks=False)]
        level = below[:SCANNED_ENTRIES]
        yield level
