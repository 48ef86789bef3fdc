"""Public datasets: a row in each published schema, compared with a pair written by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.message_rows import ASK, BAD, GOOD, prepared, prepared_texts
from support.pair_rows import assistant, user

from orpo_cli.data.formats.detect import FORMATS, detect_format
from orpo_cli.data.pair import Message, Pair

USER, BETTER, WORSE = Message("user", ASK), Message("assistant", GOOD), Message("assistant", BAD)
ONE_TURN = Pair((USER,), (BETTER,), (WORSE,))


def scored(chosen: float, rejected: float) -> Pair:
    return Pair((USER,), (BETTER,), (WORSE,), (chosen, rejected))


ROWS: dict[str, tuple[str, dict[str, Any], Pair]] = {
    "UltraFeedback binarized": (
        "preference",
        {"prompt": ASK, "prompt_id": "0f", "chosen": [user(ASK), assistant(GOOD)], "rejected": [user(ASK), assistant(BAD)],
         "messages": [user(ASK), assistant(GOOD)], "score_chosen": 8.5, "score_rejected": 3.0},
        scored(8.5, 3.0),
    ),
    "UltraFeedback cleaned": (
        "preference",
        {"source": "evol_instruct", "prompt": ASK, "chosen": [user(ASK), assistant(GOOD)], "chosen-rating": 5.0, "chosen-model": "m",
         "rejected": [user(ASK), assistant(BAD)], "rejected-rating": 3.75, "rejected-model": "n"},
        scored(5.0, 3.75),
    ),
    "orpo-dpo-mix-40k": (
        "preference",
        {"source": "toxic-dpo", "chosen": [user(ASK), assistant(GOOD)], "rejected": [user(ASK), assistant(BAD)], "prompt": ASK, "question": ASK},
        ONE_TURN,
    ),
    "Capybara binarized": (
        "preference",
        {"source": "Dove", "conversation": [{"input": "Hi", "output": "Hello"}, {"input": ASK, "output": GOOD}], "prompt": ASK,
         "chosen": [user("Hi"), assistant("Hello"), user(ASK), assistant(GOOD)], "rejected": [user("Hi"), assistant("Hello"), user(ASK), assistant(BAD)],
         "rating_chosen": 5, "rating_rejected": 4, "chosen_model": "", "rejected_model": "n"},
        Pair((Message("user", "Hi"), Message("assistant", "Hello"), USER), (BETTER,), (WORSE,), (5.0, 4.0)),
    ),
    "Orca pairs": (
        "alpaca",
        {"system": "Be brief.", "question": ASK, "chosen": GOOD, "rejected": BAD},
        Pair((Message("system", "Be brief."), USER), (BETTER,), (WORSE,)),
    ),
    "Alpaca with ranking": (
        "alpaca",
        {"instruction": "Why is", "input": "the sky blue?", "history": [["Hi", "Hello"]], "chosen": GOOD, "rejected": BAD},
        Pair((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why is\nthe sky blue?")), (BETTER,), (WORSE,)),
    ),
    "Alpaca with a list": ("alpaca", {"instruction": ASK, "input": "", "output": [GOOD, BAD]}, ONE_TURN),
    "ms-swift, an answer": ("swift", {"messages": [user(ASK), assistant(GOOD)], "rejected_response": BAD}, ONE_TURN),
    "ms-swift, a conversation": (
        "swift",
        {"messages": [user(ASK), assistant(GOOD)], "rejected_messages": [user(ASK), assistant(BAD)]},
        ONE_TURN,
    ),
    "OpenAI": (
        "openai",
        {"input": {"messages": [user(ASK)], "tools": [], "parallel_tool_calls": True}, "preferred_output": [assistant(GOOD)],
         "non_preferred_output": [assistant(BAD)]},
        ONE_TURN,
    ),
    "UltraFeedback raw": (
        "ultrafeedback",
        {"source": "flan", "instruction": ASK, "models": ["a", "b"], "correct_answers": ["None"], "completions": [
            {"model": "a", "response": BAD, "overall_score": 2.5, "fine-grained_score": 2.0, "critique": "", "principle": "x"},
            {"model": "b", "response": GOOD, "overall_score": 8.0, "fine-grained_score": 4.5, "critique": "", "principle": "x"}]},
        scored(8.0, 2.5),
    ),
    "Nectar": (
        "nectar",
        {"prompt": f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {ASK}\n\nAssistant: ", "turns": 2, "num_responses": 2,
         "source": ["lmsys-chat-1m"], "good_natured": True, "answers": [
            {"answer": BAD, "model": "a", "rank": 2.0}, {"answer": GOOD, "model": "b", "rank": 1.0}]},
        Pair((Message("user", "Hi"), Message("assistant", "Hello"), USER), (BETTER,), (WORSE,), (-1.0, -2.0)),
    ),
    "Stack Exchange preferences": (
        "stackexchange",
        {"qid": 1, "question": ASK, "metadata": [], "date": "2020", "answers": [
            {"answer_id": 1, "author": "a", "pm_score": 0, "selected": False, "text": BAD},
            {"answer_id": 2, "author": "b", "pm_score": 3, "selected": True, "text": GOOD}]},
        scored(3.0, 0.0),
    ),
    "Stack Exchange paired": (
        "judged",
        {"qid": 1, "question": ASK, "response_j": GOOD, "response_k": BAD, "date": "2020", "metadata": []},
        ONE_TURN,
    ),
    "SafeRLHF": (
        "judged",
        {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "is_response_0_safe": True},
        ONE_TURN,
    ),
    "Human preferences": (
        "judged",
        {"history": ASK, "human_ref_A": GOOD, "human_ref_B": BAD, "labels": 1, "score_A": 5, "score_B": 2},
        ONE_TURN,
    ),
    "Chatbot arena": (
        "judged",
        {"question_id": "1", "model_a": "x", "model_b": "y", "winner": "model_b", "turn": 1,
         "conversation_a": [user(ASK), assistant(BAD)], "conversation_b": [user(ASK), assistant(GOOD)]},
        ONE_TURN,
    ),
    "HelpSteer3": (
        "judged",
        {"domain": "general", "context": [user(ASK)], "response1": GOOD, "response2": BAD, "overall_preference": -2},
        replace(ONE_TURN, scores=(2.0, 0.0)),
    ),
    "judged by a letter": (
        "judged",
        {"instruction": ASK, "response_a": BAD, "response_b": GOOD, "winner": "B"},
        ONE_TURN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_each_public_dataset_is_detected_and_read(name: str) -> None:
    format_name, row, expected = ROWS[name]
    format_ = detect_format([row])
    assert format_.name == format_name
    assert format_.read(row, Counter()) == expected


@pytest.mark.parametrize("name", ROWS)
def test_a_named_format_reads_the_same_as_auto(name: str) -> None:
    format_name, row, expected = ROWS[name]
    assert detect_format([row], format_name).read(row, Counter()) == expected


def test_every_format_has_an_example_row() -> None:
    assert {format_.name for format_ in FORMATS} == {name for name, _, _ in ROWS.values()} | {
        "hh", "sharegpt", "kto", "helpsteer", "turns", "oasst", "responses", "text",
    }  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_each_format_is_prepared(name: str, tmp_path: Path) -> None:
    format_name, row, expected = ROWS[name]
    data = prepared(tmp_path, [row])
    assert data.report.sources[0].format == format_name
    assert prepared_texts(data) == [(expected.prompt_text, GOOD, BAD)]
