"""Benchmark questions: the prompts of IFEval, AlpacaEval and MT-Bench, from a file or from the hub. None is shipped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orpo_cli.digests import file_sha256
from orpo_cli.errors import DataError, HubError, hub_error_type
from orpo_cli.hub_status import hub_reachable
from orpo_cli.os_errors import explain_os_error

Task = Literal["ifeval", "alpaca_eval", "mt_bench"]
Row = dict[str, Any]


@dataclass(frozen=True)
class HubFile:
    """File of questions on the hub."""

    repo_id: str
    repo_type: Literal["dataset", "space"]
    name: str

    @property
    def address(self) -> str:
        """The repository and the file, for records and messages."""
        return f"{self.repo_type}s/{self.repo_id}/{self.name}"


HUB_FILES: dict[Task, HubFile] = {
    "ifeval": HubFile("google/IFEval", "dataset", "ifeval_input_data.jsonl"),
    "alpaca_eval": HubFile("tatsu-lab/alpaca_eval", "dataset", "alpaca_eval.json"),
    "mt_bench": HubFile("lmsys/mt-bench", "space", "data/mt_bench/question.jsonl"),
}


@dataclass(frozen=True)
class Question:
    """Question of a benchmark. ``turns``: the user messages; ``row``: as in the file."""

    key: str
    turns: tuple[str, ...]
    row: Row


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are asked, and where they are from. ``available``: how many the file has."""

    questions: list[Question]
    source: str
    sha256: str  # of the file
    revision: str | None  # the commit on the hub
    available: int

    def as_record(self) -> Row:
        """For the result file."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "revision": self.revision,
            "asked": len(self.questions),
            "available": self.available,
        }


def load_questions(task: Task, file: Path | None, max_samples: int | None) -> QuestionSet:
    """The first ``max_samples`` questions of ``file``, or of the file on the hub. Raises DataError or HubError."""
    path, source, revision = (file, str(file), None) if file is not None else _download(task)
    rows = _read_rows(path)
    questions = [_question(task, row, number, path) for number, row in enumerate(rows, start=1)]
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        first = seen.setdefault(question.key, number)
        if first != number:
            raise DataError(
                f"{path}: questions {first} and {number} have the same key {question.key}.",
                remedy="Remove one of them.",
            )
    return QuestionSet(questions[:max_samples], source, file_sha256(path), revision, len(questions))


def _download(task: Task) -> tuple[Path, str, str | None]:
    """The local copy, the address and the commit of the file on the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    file = HUB_FILES[task]
    remedy = f"Download {file.name} of {file.repo_type}s/{file.repo_id} elsewhere, and give it: --data FILE."
    try:
        path = hf_hub_download(file.repo_id, file.name, repo_type=file.repo_type, local_files_only=not hub_reachable())
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise HubError(
            f"the questions of {task} are on the hub ({file.address}), which cannot be reached, and no copy is cached.",
            remedy=remedy,
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).strip().partition("\n")[0]
        raise hub_error_type(error.response.status_code)(
            f"{file.address}: the hub refused: {reason}", remedy=remedy
        ) from error
    parts = Path(path).parts
    revision = parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
    return Path(path), file.address, revision


def _read_rows(path: Path) -> list[Row]:
    """The objects of a JSON list or of JSON lines. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise explain_os_error(error) or DataError(
            f"{path} cannot be read: {error}", remedy="Give a JSON or JSON Lines file."
        ) from error
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is neither JSON nor JSON Lines: {error}", remedy="Download the file again.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} contains no list of questions.", remedy="Give the file of questions of the benchmark.")
    return list(rows)


def _question(task: Task, row: Row, number: int, path: Path) -> Question:
    try:
        match task:
            case "ifeval":
                return _read_ifeval(row, number)
            case "alpaca_eval":
                return _read_alpaca_eval(row, number)
            case "mt_bench":
                return _read_mt_bench(row)
    except ValueError as error:
        raise DataError(
            f"{path}: question {number} is not one of {task}: {error}.",
            remedy=f"Give the questions of {task}, as in {HUB_FILES[task].address}.",
        ) from error


def _read_ifeval(row: Row, number: int) -> Question:
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("instruction_id_list is not a list of names")
    if (
        not isinstance(arguments, list)
        or len(arguments) != len(names)
        or not all(isinstance(each, dict) for each in arguments)
    ):
        raise ValueError("kwargs does not have one object for each instruction")
    return Question(str(row.get("key", number)), (_text(row, "prompt"),), row)


def _read_alpaca_eval(row: Row, number: int) -> Question:
    if row.get("input"):
        raise ValueError("it has an input, and those of AlpacaEval have none")
    return Question(str(number), (_text(row, "instruction"),), row)


def _read_mt_bench(row: Row) -> Question:
    turns = row.get("turns")
    if not isinstance(row.get("question_id"), int):
        raise ValueError("question_id is not a number")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("turns is not a list of texts")
    _text(row, "category")
    return Question(str(row["question_id"]), tuple(turns), row)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is not a text")
    return value
