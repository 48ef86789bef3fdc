"""export.json: the record of an exported folder, with the origin of the model and the checklist."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.json_files import read_json_object_or_empty

FILE_NAME = "export.json"
COMPARISONS = ("logits", "weights", "stored", "llama.cpp next token")  # suffixes of names


@dataclass
class Checklist:
    """Checks of an export, in order. A check must pass; a remark is information for the user."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, passed: bool, found: str) -> None:
        """Add a check. An export with a failed check is not published."""
        self.items.append({"name": name, "passed": passed, "found": found})

    def remark(self, name: str, found: str) -> None:
        """Add a remark, which cannot fail the export."""
        self.items.append({"name": name, "passed": None, "found": found})

    def failures(self) -> list[str]:
        """Name and finding of each failed check."""
        return [f"{item['name']}: {item['found']}" for item in self.items if item["passed"] is False]

    def comparison_failed(self) -> bool:
        """Whether a check that compares the export with the model has failed."""
        return any(item["passed"] is False and item["name"].endswith(COMPARISONS) for item in self.items)

    def lines(self) -> list[str]:
        """One line per item, to print."""
        marks = {True: "ok", False: "FAILED", None: "--"}
        return [f"  {marks[item['passed']]:>2}  {item['name']}: {item['found']}" for item in self.items]


@dataclass(frozen=True)
class ExportRecord:
    """Origin and checks of an exported folder; the fields are the keys of export.json."""

    verified: bool
    format: str
    name: str
    origin: dict[str, str]  # the exported model, by digests
    options: dict[str, Any]
    checklist: list[dict[str, Any]]
    checks: dict[str, dict[str, Any]]  # name of a logit comparison: what it measured
    files: dict[str, dict[str, Any]]  # name: size in bytes and sha256
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    first_checklist: list[dict[str, Any]] = field(default_factory=list)  # of a first attempt whose comparison failed

    def write(self, folder: Path) -> None:
        """Write export.json into ``folder``."""
        atomic_write_text(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ExportRecord | None:
        """The record of an exported folder; None if there is no readable one."""
        try:
            return cls(**read_json_object_or_empty(folder / FILE_NAME))
        except TypeError:
            return None

    def same_export(self, other: ExportRecord) -> bool:
        """Whether both are the same export of the same model."""
        return all(getattr(self, name) == getattr(other, name) for name in ("format", "origin", "options"))

    def is_complete(self, folder: Path) -> bool:
        """Whether ``folder`` has every recorded file with the recorded size."""
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == file["size"]
            for name, file in self.files.items()
        )
