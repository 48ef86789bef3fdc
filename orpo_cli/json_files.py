"""JSON object files: records of a run, model configurations and indexes, each one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeGuard

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.os_errors import explain_os_error


def read_json_object(path: Path, *, remedy: str = "Save or download the file again.") -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises UsageError where the file is absent or contains something else, MachineError where it may not be read or the disk
    fails: it may be undamaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if explained := explain_os_error(error):
            raise explained from error
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.", remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: not JSON: {error}.", remedy=remedy) from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: not a JSON object.", remedy=remedy)
    return document


def read_json_object_or_empty(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty where the file is absent or damaged."""
    try:
        return read_json_object(path)
    except (UsageError, MachineError):
        return {}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSON Lines file, one per line; empty where the file is absent.

    A line that is not a JSON object is skipped: the last line of a killed run is often incomplete.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")  # JSON has U+2028 in strings
    return [record for line in lines if (record := parse_json_object(line)) is not None]


def parse_json_object(line: str) -> dict[str, Any] | None:
    """The JSON object in a line; None where it is damaged or something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number, which an integer of JSON may exceed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def object_or_empty(value: Any) -> dict[str, Any]:
    """A JSON value that should be an object; empty where it is something else."""
    return value if isinstance(value, dict) else {}


def first_number(*values: Any) -> float | None:
    """The first of several JSON values that is a finite number; None without one."""
    return next((value for value in values if is_number(value)), None)
