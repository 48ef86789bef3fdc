"""Output files: refuse a path that cannot be written, or that exists, before any work is done."""

from __future__ import annotations

from pathlib import Path

from orpo_cli.errors import UsageError


def check_output_file(path: Path, *, overwrite: bool, option: str = "--output") -> None:
    """Raise UsageError where ``path`` is a folder, its folder does not exist, or it exists and ``overwrite`` is not set."""
    if path.is_dir():
        raise UsageError(f"{path} cannot be written: it is a folder.", remedy=f"Give a file: {option} FILE.")
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"{path} cannot be written: there is no folder {path.absolute().parent}.", remedy="Create it first."
        )
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already.", remedy=f"Choose another {option}, or add --force.")
