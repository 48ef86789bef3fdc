"""What a run left in JSON, read for its card: empty where there is none or it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpo_cli.rundir import RunDir


def read_record(path: Path) -> dict[str, Any]:
    """The object in ``path``."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def metrics_of(rundir: RunDir) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    if not rundir.metrics.is_file():
        return []
    lines = []
    for line in rundir.metrics.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last line of a killed run
            continue
    return lines
