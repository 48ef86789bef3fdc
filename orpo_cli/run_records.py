"""Records of a run (JSON files): the shape that readers rely on, checked when a file is read.

A record may be damaged by a full disk, a power failure or an editor. Its error names the file, the key and the remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_cli.atomic import atomic_write_text
from orpo_cli.control_characters import escape_json_controls
from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object
from orpo_cli.redaction import redact_record


class Record(BaseModel):
    """Base of the records. Keys that are not listed are not checked."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class AttemptRecord(Record):
    """Attempt in run.json."""

    number: int
    reason: str | None = None
    from_step: int | None = None
    to_step: int | None = None


class PairsFingerprintRecord(Record):
    """Fingerprint of the training or held-out pairs in run.json."""

    pairs: int
    digest: str
    pairs_per_block: int = 0
    blocks: str = ""


class DataFingerprintsRecord(Record):
    """Fingerprints of the data in run.json."""

    sources: dict[str, str | None] = {}
    train: PairsFingerprintRecord | None = None
    eval: PairsFingerprintRecord | None = None


class FingerprintsRecord(Record):
    """Fingerprints in run.json."""

    data: DataFingerprintsRecord = DataFingerprintsRecord()
    tokenizer: str | None = None
    chat_template: str | None = None
    weights: dict[str, Any] = {}


class MachineRecord(Record):
    """Machine in run.json."""

    devices: list[str] = []
    device_memory_gb: float | None = None  # of one device; None without a GPU
    driver: str | None = None
    processor: str = ""
    cpus: int | None = None
    memory_gb: float | None = None


class WarningRecord(Record):
    """Warning in run.json."""

    code: str
    message: str
    remedy: str | None = None


def warning_record(code: str, message: str, remedy: str | None) -> dict[str, str]:
    """A warning as run.json has it."""
    return {"code": code, "message": message} | ({} if remedy is None else {"remedy": remedy})


class RunRecord(Record):
    """run.json."""

    status: str
    name: str = ""
    attempts: list[AttemptRecord] = []
    steps: int | None = None
    planned_steps: int | None = None  # more than steps where a callback has ended the training
    seconds: float | None = None
    error: str | None = None
    versions: dict[str, str | None] = {}
    model: dict[str, Any] = {}
    final_metrics: dict[str, Any] = {}
    final_evaluation: dict[str, Any] = {}
    fingerprints: FingerprintsRecord | None = None
    changed_inputs: list[dict[str, Any]] = []
    result: dict[str, int] = {}
    trainable_parameters: int | None = None
    machine: MachineRecord | None = None
    command: list[str] = []
    changed: dict[str, Any] = {}  # dotted key → value, of --set
    tags: list[str] = []
    sweep: dict[str, Any] | None = None  # its directory and the name of the trial
    train_seconds: float | None = None  # of all attempts
    estimate: dict[str, Any] = {}
    peak_memory_gb: float | None = None
    pairs_per_second: float | None = None
    tokens_per_second: float | None = None
    fast_path: bool | None = None  # whether packed steps computed the run
    warnings: list[WarningRecord] = []


class SourceRecord(Record):
    """Source in data_report.json."""

    location: str
    part: str = ""
    path: str = ""
    notes: dict[str, int] = {}
    rows_read: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}


class DataReportRecord(Record):
    """data_report.json."""

    train_pairs: int = 0
    eval_pairs: int = 0
    sources: list[SourceRecord] = []
    dropped: dict[str, int] = {}
    reasons: dict[str, str] = {}
    fingerprints: dict[str, str] = {}
    max_length: int | None = None
    max_prompt_length: int = 0
    truncated_prompts: int = 0
    truncated_completions: int = 0


class EvaluationRecord(Record):
    """evaluation.json."""

    models: dict[str, dict[str, Any]] = {}


class BenchmarkRecord(Record):
    """benchmarks/TASK/result.json."""

    task: str
    name: str = ""
    date: str = ""
    questions: dict[str, Any] = {}
    prompts: dict[str, Any] = {}
    decoding: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    model: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    change: dict[str, Any] | None = None


class AnswerRecord(Record):
    """Answer in samples.json."""

    prompt: str
    base: dict[str, Any] | None = None
    tuned: dict[str, Any] | None = None


class SamplesRecord(Record):
    """samples.json."""

    answers: list[AnswerRecord] = []


class PushedBranchRecord(BaseModel):
    """Branch in hub.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    commit: str | None = None
    files: dict[str, list[str]] = {}
    parts: dict[str, str] = {}


class PushesRecord(Record):
    """hub.json."""

    repositories: dict[str, dict[str, PushedBranchRecord]] = {}
    base: dict[str, Any] = {}


def read_record(path: Path, shape: type[Record], remedy: str) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UsageError where the file cannot be read or has another shape."""
    document = read_json_object(path, remedy=remedy)
    try:
        shape.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"{path} is damaged: {first_problem(error)}.", remedy=remedy) from error
    return document


def write_record(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON record of a run, such as ``RunDir.samples``: atomically, without secrets."""
    atomic_write_text(
        path, escape_json_controls(json.dumps(redact_record(document), indent=2, ensure_ascii=False)) + "\n"
    )


def read_valid_fields(path: Path, shape: type[Record], **defaults: Any) -> dict[str, Any]:
    """The fields of a damaged record that are complete and have the right type; ``defaults`` where there are none."""
    document = {**defaults, **_complete_fields(path)}
    while True:
        try:
            shape.model_validate(document)
        except ValidationError as error:
            location = error.errors(include_url=False)[0]["loc"]
            _remove(document, location)
            document = {**defaults, **document}
        else:
            return document


def _complete_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON object in the layout of ``write_record``: each is read alone, so that a damage is in one of them."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return {}
    fields: dict[str, Any] = {}
    for field in re.split(r",(?:\n  (?! )|\s*$)", text.strip().removeprefix("{").removesuffix("}")):
        try:
            if "\ufffd" not in field:
                fields |= json.loads(f"{{{field}}}")
        except (ValueError, RecursionError):
            continue
    return fields


def _remove(document: Any, location: Sequence[int | str]) -> None:
    """Remove the value at a location; where it is missing or the container is none, the container."""
    *outer, name = location
    container = document
    for each in outer:
        container = container[each]
    if not isinstance(container, dict) or name in container:
        del container[name]
    else:
        _remove(document, outer)


def first_problem(error: ValidationError) -> str:
    """The key and the rule of the first problem."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the document'}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"
