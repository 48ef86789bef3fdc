"""Search for run directories. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orpo_cli.rundir import RunDir

MAX_DEPTH = 6  # folders below one that is searched


def find_runs(directories: Sequence[str | Path]) -> list[Path]:
    """The run directories in ``directories`` and below, also those in another run, sorted by path.

    Hidden folders, and the folders that a run itself has, are not searched. A directory that is found through two paths, such as
    a link, counts once, under its first path.
    """
    found: dict[tuple[int, int], Path] = {}
    visited: set[tuple[int, int]] = set()
    waiting = [(Path(each), 0) for each in reversed(directories)]
    while waiting:
        directory, depth = waiting.pop()
        rundir = RunDir(directory)
        try:
            status = directory.stat()
            is_run = rundir.is_run()
            folders = [
                Path(each.path) for each in os.scandir(directory) if each.is_dir() and not each.name.startswith(".")
            ]
        except OSError:  # removed a moment ago, or not readable
            continue
        if (key := (status.st_dev, status.st_ino)) in visited:
            continue
        visited.add(key)
        if is_run:
            found[key] = directory
            folders = [each for each in folders if rundir.is_foreign(each)]
        if depth < MAX_DEPTH:  # real folders before links, so that a run is shown under its own path
            folders.sort(key=lambda path: (path.is_symlink(), path), reverse=True)
            waiting += [(each, depth + 1) for each in folders]
    return sorted(found.values())
