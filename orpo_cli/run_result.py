"""Files of a run's result, the adapter or the model: names and sizes for run.json, and the check against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_weights
from orpo_cli.json_files import read_json_object_or_empty

_WEIGHTS = {".safetensors", ".bin"}


def result_files(root: Path, folders: Sequence[Path]) -> dict[str, int]:
    """The size of each file of the result, by its path below ``root``; without the model card, which users edit."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}


def find_result_damage(root: Path, recorded: Mapping[str, int], folders: Sequence[Path]) -> str | None:
    """What is wrong with the result, for a message; None where it is as ``recorded``. Weights are not read.

    A user may edit other files. A run of version 0.2.0 has no record: there the headers of the weights are checked.
    """
    for name, size in recorded.items():
        path = root / name
        if not path.is_file():
            return f"{path} is missing"
        if (found := path.stat().st_size) != size and not _may_be_edited(path, found):
            return f"{path} has {found:,} bytes in place of {size:,}"
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        return f"it has no folder {' or '.join(path.name for path in folders)}"
    try:
        if not recorded:
            check_weights(folder)
    except CheckpointDamaged as error:
        return f"{folder}: {error}"
    return None


def _may_be_edited(path: Path, size: int) -> bool:
    """Whether a file with another size may be a user's edit: it is complete and has no weights."""
    if path.suffix in _WEIGHTS:
        return False
    return bool(read_json_object_or_empty(path)) if path.suffix == ".json" else size > 0
