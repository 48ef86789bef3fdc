"""Answer files: the fields and the order that the tools of AlpacaEval and MT-Bench read."""

from __future__ import annotations

import json

from orpo_cli.evaluation.benchmarks.judge_files import alpaca_eval_text, mt_bench_temperature, mt_bench_text
from orpo_cli.evaluation.benchmarks.questions import Question


def mt_question(number: int, category: str = "writing") -> Question:
    turns = ("Write.", "Again.")
    return Question(str(number), turns, {"question_id": number, "category": category, "turns": list(turns)})


def test_alpaca_eval_reads_a_list_with_the_instruction_the_output_and_the_generator() -> None:
    rows = [
        {"dataset": "koala", "instruction": "Why?", "output": "of another model", "generator": "x"},
        {"instruction": "Ü?"},
    ]
    questions = [Question(str(number), (row["instruction"],), row) for number, row in enumerate(rows)]
    text = alpaca_eval_text(questions, [" So.\n", "Ä"], "mine")
    assert json.loads(text) == [
        {"dataset": "koala", "instruction": "Why?", "output": "So.", "generator": "mine"},
        {"instruction": "Ü?", "output": "Ä", "generator": "mine"},
    ]
    assert "Ü" in text


def test_mt_bench_reads_lines_sorted_by_question_with_one_choice_of_all_turns() -> None:
    answers = [[" a ", "b"], ["c", "d"]]
    text = mt_bench_text([mt_question(82), mt_question(81)], answers, "mine", 1700000000.5)
    first, second = map(json.loads, text.splitlines())
    assert first == {
        "question_id": 81, "answer_id": first["answer_id"], "model_id": "mine",
        "choices": [{"index": 0, "turns": ["c", "d"]}], "tstamp": 1700000000.5,
    }  # fmt: skip
    assert second["choices"][0]["turns"] == ["a", "b"]
    assert len({first["answer_id"], second["answer_id"]}) == 2
    assert len(first["answer_id"]) == 22
    assert text == mt_bench_text([mt_question(82), mt_question(81)], answers, "mine", 1700000000.5)


def test_the_temperature_of_mt_bench_is_that_of_the_category() -> None:
    found = {
        category: mt_bench_temperature(mt_question(1, category)) for category in ("writing", "math", "stem", "new")
    }
    assert found == {"writing": 0.7, "math": 0.0, "stem": 0.1, "new": 0.7}
