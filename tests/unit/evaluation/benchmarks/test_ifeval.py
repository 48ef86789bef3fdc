"""IFEval: the same figures as lm-evaluation-harness on the same answers; a missing package and missing data."""

from __future__ import annotations

import json
import random
import sys

import pytest

from orpo_cli.errors import DataError, MachineError
from orpo_cli.evaluation.benchmarks.ifeval import (
    PUNKT,
    Verdict,
    accuracy_values,
    check_scorer,
    score_answers,
    verdict_lines,
)
from orpo_cli.evaluation.benchmarks.questions import Question

ROWS = [
    {"key": 1, "prompt": "No commas, in capitals.", "instruction_id_list": ["punctuation:no_comma", "change_case:english_capital"], "kwargs": [{}, {}]},
    {"key": 2, "prompt": "Ten words.", "instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"relation": "at least", "num_words": 10}]},
    {"key": 3, "prompt": "Two bullets.", "instruction_id_list": ["detectable_format:number_bullet_lists"], "kwargs": [{"num_bullets": 2}]},
]  # fmt: skip
QUESTIONS = [Question(str(row["key"]), (str(row["prompt"]),), row) for row in ROWS]
ANSWERS = ["THIS IS ENGLISH TEXT WITHOUT ANY COMMAS", "Too short.", "Here they are:\n* one\n* two\n* three"]


def require_scorer() -> None:
    pytest.importorskip("lm_eval")
    try:
        check_scorer()
    except MachineError as error:
        pytest.skip(error.message)


def test_accuracies_are_of_prompts_and_of_instructions() -> None:
    values = accuracy_values([Verdict([True, False], [True, True]), Verdict([True], [True])])
    assert values == {
        "prompt_level_strict_acc": [False, True],
        "inst_level_strict_acc": [True, False, True],
        "prompt_level_loose_acc": [True, True],
        "inst_level_loose_acc": [True, True, True],
    }


def test_each_answer_is_written_with_its_verdict() -> None:
    lines = verdict_lines(QUESTIONS[:1], ["no"], [Verdict([True, False], [True, False])])
    assert json.loads(lines) == {
        "key": 1, "prompt": "No commas, in capitals.", "response": "no",
        "instruction_id_list": ROWS[0]["instruction_id_list"], "strict": [True, False], "loose": [True, False],
    }  # fmt: skip


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MachineError, match="lm_eval") as error:
        check_scorer()
    assert "orpo-cli[benchmark]" in str(error.value.remedy)


def test_missing_data_of_nltk_is_named_with_its_download(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")

    def find(name: str) -> str:
        assert name == PUNKT
        raise LookupError

    monkeypatch.setattr(nltk.data, "find", find)
    with pytest.raises(MachineError, match="punkt_tab") as error:
        check_scorer()
    assert "nltk.downloader punkt_tab" in str(error.value.remedy)


def test_figures_equal_those_of_the_harness_on_the_same_answers() -> None:
    require_scorer()
    from lm_eval.tasks.ifeval import utils

    found = accuracy_values(score_answers(QUESTIONS, ANSWERS))
    expected = [utils.process_results(row, [answer]) for row, answer in zip(ROWS, ANSWERS, strict=True)]
    for name in ("prompt_level_strict_acc", "prompt_level_loose_acc"):
        assert found[name] == [each[name] for each in expected]
    for name in ("inst_level_strict_acc", "inst_level_loose_acc"):
        assert sum(found[name]) / len(found[name]) == utils.agg_inst_level_acc([each[name] for each in expected])
    assert found["prompt_level_strict_acc"] == [True, False, False]
    assert found["prompt_level_loose_acc"] == [True, False, True]  # without the last line there are two bullets


def test_scoring_leaves_the_random_numbers_of_the_process_alone() -> None:
    require_scorer()
    random.seed(3)
    expected = random.random()
    random.seed(3)
    score_answers(QUESTIONS, ANSWERS)
    assert random.random() == expected


def test_an_unknown_instruction_is_an_error_of_the_data() -> None:
    require_scorer()
    row = {**ROWS[0], "instruction_id_list": ["punctuation:new"], "kwargs": [{}]}
    with pytest.raises(DataError, match="question 9: lm_eval cannot check it"):
        score_answers([Question("9", ("x",), row)], ["x"])
