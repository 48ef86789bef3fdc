"""File metrics.jsonl of a run: lines that a full disk has no space for are written later, and no step is missing or twice.

A line that cannot be written does not stop the run, which would lose the steps since the last checkpoint. Its values are also
in the log history of the next checkpoint, from which a resumed run restores the line.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import MachineError
from orpo_cli.json_files import is_number
from orpo_cli.os_errors import explain_os_error

Record = dict[str, Any]


class MetricsFile:
    """Writer of metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[str] = []

    def append(self, record: Record) -> str | None:
        """Write a line. Returns a message for the first line that cannot be written; it waits for the next one."""
        self._waiting.append(json.dumps(record) + "\n")
        error = self._write_waiting()
        if error is None or len(self._waiting) > 1:
            return None
        return f"{error.message} {error.remedy} Lines of metrics wait for space; the training goes on."

    def finish(self) -> None:
        """Write the lines that wait. Raises MachineError if that is not possible."""
        if (error := self._write_waiting()) is not None:
            raise error

    def _write_waiting(self) -> MachineError | None:
        if not self._waiting:
            return None
        data = "".join(self._waiting).encode()
        try:
            with self.path.open("ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    rest = data
                    while rest:  # the write after one that was cut short raises its error
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            message = f"cannot write {self.path}"
            return explain_os_error(error, message) or MachineError(f"{message}: {error.strerror or error}.")
        self._waiting.clear()
        return None


def metrics_record(step: int, values: Record) -> Record:
    """The values of a logged step or an evaluation: numbers that are finite, and the kind and the time of a line."""
    record = {"step": step} | {name: value for name, value in values.items() if isinstance(value, int | float)}
    texts = {name: values[name] for name in ("kind", "time") if isinstance(values.get(name), str)}
    return {**texts, **{name: value for name, value in record.items() if math.isfinite(value)}}


def utc_time() -> str:
    """The present time as in each line: UTC in ISO 8601, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def restore_metrics(path: Path, step: int, log_history: Iterable[Record] = ()) -> int:
    """Set metrics.jsonl back to ``step`` for a resumed run.

    Later lines are dropped, because the run computes those steps again, and an incomplete last line. So are later events:
    run.json has all attempts. Lines of metrics that are missing, because the disk was full or the process was killed, are
    restored from the log history of the checkpoint. Returns the number of lines that are not metrics, which are kept.
    """
    *lines, last = path.read_bytes().decode(errors="replace").split("\n") if path.exists() else [""]
    if _parse(last) is not None:
        lines.append(last)  # only its line feed is missing
    kept: list[tuple[float, str]] = []  # with the step that decides the order
    present, foreign = set(), 0
    for line in lines:
        record = _parse(line)
        if record is None:
            foreign += 1
            kept.append((kept[-1][0] if kept else -1, line))
        elif record["step"] <= step:
            present.add(_key(record))
            kept.append((record["step"], line))
    logged = [metrics_record(entry["step"], entry) for entry in log_history]
    missing = [each for each in logged if each["step"] <= step and _key(each)[1] and _key(each) not in present]
    kept += [(record["step"], json.dumps(record)) for record in missing]
    if path.exists() or kept:
        atomic_write_text(path, "".join(f"{line}\n" for _, line in sorted(kept, key=lambda each: each[0])))
    return foreign


def _parse(line: str) -> Record | None:
    """The record of a line; None for a line that is damaged or not of this program."""
    try:
        record = json.loads(line)
        return record if is_number(record["step"]) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _key(record: Record) -> tuple[float, str]:
    """The step, and the name of the loss: a step may have a line of the training and one of each evaluation. Events have no loss."""
    return record["step"], min((name for name in record if name.endswith("loss")), default="")
