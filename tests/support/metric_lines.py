"""Lines of metrics.jsonl, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def metric_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of logged steps and evaluations of the run directory ``run``, without events; none without the file."""
    return [line for line in all_lines(run) if line.get("kind") != "event"]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    """The event lines of one kind, such as ``checkpoint``."""
    return [line for line in all_lines(run) if line.get("event") == name]


def all_lines(run: Path) -> list[dict[str, Any]]:
    """All lines."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
