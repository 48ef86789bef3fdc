"""Benchmark questions: read from JSON and JSON Lines, with errors that name the file, the question and the remedy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines

from orpo_cli.errors import DataError, HubError
from orpo_cli.evaluation.benchmarks.questions import Task, load_questions

IFEVAL = {"key": 7, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
ALPACA = {"dataset": "koala", "instruction": "Why?", "output": "Because.", "generator": "text_davinci_003"}
MT_BENCH = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["?"]}


def write_lines(path: Path, *rows: Any) -> Path:
    write_json_lines(path, rows)
    return path


def test_questions_are_read_from_json_lines_and_from_a_json_list(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mt.jsonl", MT_BENCH, {**MT_BENCH, "question_id": 82})
    found = load_questions("mt_bench", file, 1)
    assert [(each.key, each.turns) for each in found.questions] == [("81", ("Write.", "Again."))]
    assert found.as_record() == {
        "source": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "revision": None, "asked": 1, "available": 2,
    }  # fmt: skip
    (tmp_path / "alpaca.json").write_text(json.dumps([ALPACA, ALPACA]))
    assert [each.key for each in load_questions("alpaca_eval", tmp_path / "alpaca.json", None).questions] == ["1", "2"]
    (of_ifeval,) = load_questions("ifeval", write_lines(tmp_path / "if.jsonl", IFEVAL), None).questions
    assert (of_ifeval.key, of_ifeval.turns, of_ifeval.row) == ("7", ("Write.",), IFEVAL)


@pytest.mark.parametrize(
    ("task", "row", "reason"),
    [
        ("ifeval", MT_BENCH, "instruction_id_list is not a list of names"),
        ("ifeval", {**IFEVAL, "kwargs": []}, "kwargs does not have one object for each instruction"),
        ("ifeval", {**IFEVAL, "prompt": " "}, "prompt is not a text"),
        ("alpaca_eval", MT_BENCH, "instruction is not a text"),
        ("alpaca_eval", {**ALPACA, "input": "x"}, "it has an input"),
        ("mt_bench", ALPACA, "question_id is not a number"),
        ("mt_bench", {**MT_BENCH, "turns": "Write."}, "turns is not a list of texts"),
        ("mt_bench", {**MT_BENCH, "category": None}, "category is not a text"),
    ],
)
def test_a_row_of_another_benchmark_is_named(tmp_path: Path, task: Task, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"question 1 is not one of {task}: {reason}") as error:
        load_questions(task, write_lines(tmp_path / "x.jsonl", row), None)
    assert f"Give the questions of {task}" in str(error.value.remedy)


def test_unreadable_files_and_equal_keys_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    (tmp_path / "empty").write_text("\n")
    for name, reason in (
        ("x", "neither JSON nor JSON Lines"),
        ("empty", "no list of questions"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(DataError, match=reason):
            load_questions("ifeval", tmp_path / name, None)
    with pytest.raises(DataError, match="questions 1 and 2 have the same key 81"):
        load_questions("mt_bench", write_lines(tmp_path / "twice.jsonl", MT_BENCH, MT_BENCH), None)


def test_without_a_network_the_error_says_which_file_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("orpo_cli.evaluation.benchmarks.questions.hub_reachable", lambda: False)
    with pytest.raises(HubError, match=r"google/IFEval/ifeval_input_data\.jsonl") as error:
        load_questions("ifeval", None, None)
    assert error.value.exit_code == 6
    assert "--data FILE" in str(error.value.remedy)
