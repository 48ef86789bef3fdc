"""Answer file: the answers to many prompts (JSON Lines), written so that a killed process loses one batch at most.

While answers are generated, ``FILE.partial`` has a line per batch, and ``FILE.settings.json`` beside the file has everything that
decides the answers. A later process with the same settings continues; one with other settings is refused. The file itself
appears when it is complete, in the order of the prompts: the same bytes as without an interruption.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.atomic import NO_SPACE_REMEDY, atomic_write_text, unused_name
from orpo_cli.control_characters import escape_json_controls
from orpo_cli.errors import UsageError
from orpo_cli.file_lock import lock_owner, try_lock
from orpo_cli.json_files import parse_json_object, read_json_lines, read_json_object
from orpo_cli.os_errors import explain_write_errors
from orpo_cli.redaction import redact_record

DECIDING = "settings"  # the part of the settings file that a continued generation must not change
OTHER_FILE_REMEDY = "Give another --output, or remove {} to start again."


@dataclass(frozen=True)
class BatchAnswers:
    """Answers of one batch of one variant, JSON-ready, and the seconds that they took."""

    variant: str
    batch: int
    answers: list[dict[str, Any]]
    seconds: float


class AnswerFile:
    """Answer file at ``path`` for generations with ``settings`` (JSON-ready)."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = redact_record(json.loads(json.dumps(settings)))
        self.settings_path = settings_path(path)
        self.partial = path.with_name(f"{path.name}.partial")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other process writes the file. Raises UsageError where one does."""
        lock_path = self.path.with_name(f".{self.path.name}.lock")
        with explain_write_errors(self.path, NO_SPACE_REMEDY):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = try_lock(lock_path)
        if lock is None:
            raise UsageError(
                f"{lock_owner(lock_path)} is writing {self.path}.", remedy="Wait for it, or give another --output."
            )
        try:
            yield
        finally:
            lock.release()

    def check_settings(self) -> bool:
        """Whether the file was begun with the same settings; false where there is none.

        Raises UsageError for a file with other settings, or without a settings file.
        """
        check_is_answer_file(self.path)
        if not self.settings_path.exists():
            return False
        before = read_json_object(self.settings_path, remedy=OTHER_FILE_REMEDY.format(self.path)).get(DECIDING)
        changed = list(_differences(before, self.settings))
        if changed and (self.path.exists() or self.partial.exists()):
            raise UsageError(
                f"{self.path} was begun with other settings:\n  " + "\n  ".join(changed),
                remedy=f"Repeat the command with those settings; or {_lower(OTHER_FILE_REMEDY.format(self._files()))}",
            )
        return not changed

    def set_aside_other_weights(self, about: dict[str, Any]) -> Path | None:
        """Move what was begun with other weights, which nothing can continue, to a new folder beside it. Returns this folder.

        ``about``: the other parts of the settings file now. Answers of a base are compared with those of ``compared_weights``: if
        these have changed, they are answered again in the environment of now, so the answers of the base are kept only if it
        is the same.
        """
        check_is_answer_file(self.path)
        if not (self.path.exists() or self.partial.exists()):
            return None
        document = read_json_object(self.settings_path)
        about = redact_record(json.loads(json.dumps(about)))
        if recorded_settings(self.path).get("weights") == self.settings["weights"]:
            if document.get("compared_weights") == about.get("compared_weights"):
                return None
            if document.get("environment") == about["environment"]:
                self._write_document({**document, "compared_weights": about["compared_weights"]})
                return None
        folder = unused_name(self.path.with_name(f"{self.path.stem}.other-weights"))
        with explain_write_errors(folder, NO_SPACE_REMEDY):
            folder.mkdir()
            # a copy first: a process that is killed here leaves no answers without their settings
            shutil.copyfile(self.settings_path, folder / self.settings_path.name)
            for path in (self.path, self.partial):
                if path.exists():
                    path.rename(folder / path.name)
        return folder

    def complete_rows(self, count: int) -> list[dict[str, Any]] | None:
        """The ``count`` rows of the complete file; None where it is not complete yet. Raises UsageError where it was changed."""
        if not self.path.exists():
            return None
        rows = read_json_lines(self.path)
        if len(rows) != count:
            raise self.changed_error(f"has {len(rows)} answers, not the {count} that were written to it")
        self.partial.unlink(missing_ok=True)  # of a process that was killed at the end
        return rows

    def changed_error(self, what: str) -> UsageError:
        """The error of a complete file that somebody has changed."""
        return UsageError(f"{self.path} {what}.", remedy=OTHER_FILE_REMEDY.format(self.path))

    def read_partial(self) -> list[BatchAnswers]:
        """The batches that earlier processes answered. A line that a kill cut off is removed from the file."""
        batches: list[BatchAnswers] = []
        if not self.partial.exists():
            return batches
        with explain_write_errors(self.partial, NO_SPACE_REMEDY), self.partial.open("r+b") as file:
            valid = 0
            for line in file:
                record = parse_json_object(line.decode("utf-8", errors="replace"))
                if (
                    not line.endswith(b"\n")
                    or record is None
                    or record.keys() != BatchAnswers.__dataclass_fields__.keys()
                ):
                    break
                batches.append(BatchAnswers(**record))
                valid += len(line)
            file.truncate(valid)
        return batches

    def write_settings(self, **others: Any) -> None:
        """Write the settings file: what decides the answers, and ``others``."""
        self._write_document({DECIDING: self.settings, **others})

    def _write_document(self, document: dict[str, Any]) -> None:
        atomic_write_text(
            self.settings_path,
            escape_json_controls(json.dumps(redact_record(document), indent=2, ensure_ascii=False)) + "\n",
        )

    def append(self, batch: BatchAnswers) -> None:
        """Append the answers of a batch; they are on the disk when this returns."""
        line = json.dumps(batch.__dict__, ensure_ascii=False) + "\n"
        with explain_write_errors(self.partial, NO_SPACE_REMEDY), self.partial.open("ab") as file:
            file.write(line.encode("utf-8", errors="backslashreplace"))
            file.flush()
            os.fsync(file.fileno())

    def write_complete(self, rows: list[dict[str, Any]]) -> None:
        """Write the complete file, then remove the partial one."""
        atomic_write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.partial.unlink(missing_ok=True)

    def _files(self) -> str:
        return " and ".join(str(path) for path in (self.path, self.partial) if path.exists())


def settings_path(path: Path) -> Path:
    """The settings file of an answer file: ``answers.settings.json`` beside ``answers.jsonl``."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.settings.json")


def recorded_settings(path: Path) -> dict[str, Any]:
    """What decided the answers of the file at ``path``; empty where no settings file is beside it."""
    beside = settings_path(path)
    settings = read_json_object(beside).get(DECIDING) if beside.is_file() else None
    return settings if isinstance(settings, dict) else {}


def check_is_answer_file(path: Path) -> None:
    """Raise UsageError where ``path`` is a folder or a file that has no settings file. Called before a model is loaded."""
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder.", remedy="Give a file, for example answers.jsonl.")
    for file in (path, path.with_name(f"{path.name}.partial")):
        if file.exists() and not settings_path(path).exists():
            raise UsageError(
                f"{file} exists, and {settings_path(path).name} is not beside it: it may be another file.",
                remedy=OTHER_FILE_REMEDY.format(file),
            )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """A line per value that differs."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    elif before != now:
        yield f"{name or 'settings'}: {json.dumps(before)} → {json.dumps(now)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
