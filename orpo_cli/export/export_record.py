"""export.json: what was exported from what, and what its checks found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.json_files import read_json_object_or_empty

FILE_NAME = "export.json"
COMPARISONS = ("logits", "weights", "stored", "llama.cpp next token")  # ends of names


@dataclass
class Checklist:
    """What was looked at, in order. What must hold is a check; what is only told is a remark."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, passed: bool, found: str) -> None:
        """Keep a finding. Nothing is exported where one has not passed."""
        self.items.append({"name": name, "passed": passed, "found": found})

    def remark(self, name: str, found: str) -> None:
        """Keep something that the user should know, and that spoils nothing."""
        self.items.append({"name": name, "passed": None, "found": found})

    def failures(self) -> list[str]:
        """Name and finding of each check that has not passed."""
        return [f"{item['name']}: {item['found']}" for item in self.items if item["passed"] is False]

    def comparison_failed(self) -> bool:
        """Whether a check has not passed that compares what was computed or stored with the model."""
        return any(item["passed"] is False and item["name"].endswith(COMPARISONS) for item in self.items)

    def lines(self) -> list[str]:
        """A line an item, for people."""
        marks = {True: "ok", False: "FAILED", None: "--"}
        return [f"  {marks[item['passed']]:>2}  {item['name']}: {item['found']}" for item in self.items]


@dataclass(frozen=True)
class ExportRecord:
    """The verdict on an exported folder."""

    verified: bool
    format: str
    name: str
    origin: dict[str, str]  # what it was made of, by digest
    options: dict[str, Any]
    checklist: list[dict[str, Any]]
    checks: dict[str, dict[str, Any]]  # of each comparison of logits: what it measured
    files: dict[str, dict[str, Any]]  # name: size in bytes, sha256
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    first_checklist: list[dict[str, Any]] = field(default_factory=list)  # of a first attempt whose comparison failed

    def write(self, folder: Path) -> None:
        """Write export.json into ``folder``."""
        atomic_write_text(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ExportRecord | None:
        """The record of an exported folder; None where there is none that can be read."""
        try:
            return cls(**read_json_object_or_empty(folder / FILE_NAME))
        except TypeError:
            return None

    def same_export(self, other: ExportRecord) -> bool:
        """Whether both are the same export of the same model."""
        return all(getattr(self, name) == getattr(other, name) for name in ("format", "origin", "options"))

    def is_complete(self, folder: Path) -> bool:
        """Whether every recorded file is still in ``folder`` with its size."""
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == file["size"]
            for name, file in self.files.items()
        )
