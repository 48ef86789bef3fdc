"""Public datasets: a row in each published schema, compared with a pair written by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of
from support.message_rows import prepared

from orpo_cli.data.formats.detect import FORMATS, detect_format
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection

ASK, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "Nobody knows."
USER, BETTER, WORSE = Message("user", ASK), Message("assistant", GOOD), Message("assistant", BAD)
ONE_TURN = Pair((USER,), (BETTER,), (WORSE,))


def user(text: str = ASK) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def scored(chosen: float, rejected: float) -> Pair:
    return Pair((USER,), (BETTER,), (WORSE,), (chosen, rejected))


ROWS: dict[str, tuple[str, dict[str, Any], Pair]] = {
    "UltraFeedback binarized": (
        "preference",
        {"prompt": ASK, "prompt_id": "0f", "chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)],
         "messages": [user(), assistant(GOOD)], "score_chosen": 8.5, "score_rejected": 3.0},
        scored(8.5, 3.0),
    ),
    "UltraFeedback cleaned": (
        "preference",
        {"source": "evol_instruct", "prompt": ASK, "chosen": [user(), assistant(GOOD)], "chosen-rating": 5.0, "chosen-model": "m",
         "rejected": [user(), assistant(BAD)], "rejected-rating": 3.75, "rejected-model": "n"},
        scored(5.0, 3.75),
    ),
    "orpo-dpo-mix-40k": (
        "preference",
        {"source": "toxic-dpo", "chosen": [user(), assistant(GOOD)], "rejected": [user(), assistant(BAD)], "prompt": ASK, "question": ASK},
        ONE_TURN,
    ),
    "Capybara binarized": (
        "preference",
        {"source": "Dove", "conversation": [{"input": "Hi", "output": "Hello"}, {"input": ASK, "output": GOOD}], "prompt": ASK,
         "chosen": [user("Hi"), assistant("Hello"), user(), assistant(GOOD)], "rejected": [user("Hi"), assistant("Hello"), user(), assistant(BAD)],
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
    "ms-swift, an answer": ("swift", {"messages": [user(), assistant(GOOD)], "rejected_response": BAD}, ONE_TURN),
    "ms-swift, a conversation": (
        "swift",
        {"messages": [user(), assistant(GOOD)], "rejected_messages": [user(), assistant(BAD)]},
        ONE_TURN,
    ),
    "OpenAI": (
        "openai",
        {"input": {"messages": [user()], "tools": [], "parallel_tool_calls": True}, "preferred_output": [assistant(GOOD)],
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
         "conversation_a": [user(), assistant(BAD)], "conversation_b": [user(), assistant(GOOD)]},
        ONE_TURN,
    ),
    "HelpSteer3": (
        "judged",
        {"domain": "general", "context": [user()], "response1": GOOD, "response2": BAD, "overall_preference": -2},
        ONE_TURN,
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


def texts(data: PreparedData) -> list[tuple[str, str, str]]:
    return [
        (json.loads(row["prompt_json"])[-1]["content"], row["chosen_text"], row["rejected_text"]) for row in data.train
    ]


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_each_format_is_prepared(name: str, tmp_path: Path) -> None:
    format_name, row, expected = ROWS[name]
    data = prepared(tmp_path, [row])
    assert data.report.sources[0].format == format_name
    assert texts(data) == [(expected.prompt_text, GOOD, BAD)]


def completions(*scores: Any) -> dict[str, Any]:
    return {
        "instruction": ASK,
        "completions": [{"response": f"a{n}", "overall_score": score} for n, score in enumerate(scores)],
    }


def test_the_best_completion_is_paired_with_a_seeded_choice_of_worse_ones() -> None:
    row = completions(3, 9, 9, 1, 5)
    drawn = {detect_format([row], seed=seed).read(row, Counter()).rejected_text for seed in range(40)}
    assert drawn == {"a0", "a3", "a4"}
    again = {detect_format([row], seed=7).read(row, Counter()).rejected_text for _ in range(5)}
    assert len(again) == 1
    assert detect_format([row]).read(row, Counter()).chosen_text == "a1"


def test_completions_with_equal_scores_are_a_tie(tmp_path: Path) -> None:
    data = prepared(tmp_path, [completions(4, 4), completions(4, "N/A"), completions(1, 2)])
    assert data.report.dropped == {"tie": 1, "malformed": 1}
    assert texts(data) == [(ASK, "a1", "a0")]


def test_consecutive_helpsteer_rows_with_the_same_prompt_form_a_pair(tmp_path: Path) -> None:
    def row(prompt: str, response: str, helpfulness: int, correctness: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": correctness,
                "coherence": 4, "complexity": 1, "verbosity": 2}  # fmt: skip

    rows = [row("q1", "worse", 2, 4), row("q1", "better", 4, 1), row("q2", "same", 3, 3), row("q2", "again", 3, 3),
            row("q3", "alone", 1, 1), row("q4", "right", 3, 4), row("q4", "wrong", 3, 2)]  # fmt: skip
    data = prepared(tmp_path, rows)
    assert texts(data) == [("q1", "better", "worse"), ("q4", "right", "wrong")]
    assert data.report.dropped == {"tie": 2, "unpaired": 1}
    assert data.report.rows_read == 7
    assert data.report.sources[0].notes["rows_gathered"] == 4


def test_a_good_and_a_bad_completion_of_one_prompt_form_a_pair_at_any_distance(tmp_path: Path) -> None:
    def row(prompt: Any, completion: str, label: Any) -> dict[str, Any]:
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [row("q1", "good", True), row("q2", "bad", False), row("q3", "alone", True), row("q1", "bad", False),
            row([user("q2")], "fine", True), row("q2", "fine", 1), row("q1", "other", "maybe")]  # fmt: skip
    data = prepared(tmp_path, rows)
    assert data.report.sources[0].format == "kto"
    assert texts(data) == [("q1", "good", "bad"), ("q2", "fine", "bad")]
    assert data.report.dropped == {"unpaired": 2, "malformed": 1}
    assert data.train["row"][:] == ["x.jsonl:1+4", "x.jsonl:2+6"]


def test_a_tie_is_counted_and_an_ambiguous_label_is_an_error(tmp_path: Path) -> None:
    def row(label: Any) -> dict[str, Any]:
        return {"prompt": ASK, "response_1": GOOD, "response_2": BAD, "label": label}

    data = prepared(tmp_path, [row(1), row("tie"), row(2)])
    assert texts(data) == [(ASK, GOOD, BAD), (ASK, BAD, GOOD)]
    assert data.report.dropped == {"tie": 1}
    with pytest.raises(DataError, match="label is 0") as caught:
        prepared(tmp_path, [row(0), row(1)])
    assert "first, second or tie" in str(caught.value.remedy)
    mapped = prepared(tmp_path, [row(0), row(1)], labels={"0": "first", "1": "second"})
    assert texts(mapped) == [(ASK, GOOD, BAD), (ASK, BAD, GOOD)]
    with pytest.raises(DataError, match="labels would do nothing"):
        prepared(tmp_path, [ROWS["OpenAI"][1]], labels={"0": "first"})


def test_columns_can_name_nested_fields(tmp_path: Path) -> None:
    row = {"q": {"text": ASK}, "answers": [{"text": BAD}, {"text": GOOD}], "who": {"won": "R"}}
    columns = {
        "instruction": "q.text",
        "response_1": "answers.0.text",
        "response_2": "answers.1.text",
        "label": "who.won",
    }
    data = prepared(tmp_path, [row], columns=columns, labels={"R": "second"})
    assert texts(data) == [(ASK, GOOD, BAD)]
    with pytest.raises(DataError, match=r"no answers\.2\.text"):
        prepared(tmp_path, [row], columns={**columns, "response_1": "answers.2.text"})


def test_min_score_margin_drops_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": [user(f"{better}?")], "chosen": GOOD, "rejected": BAD, "score_chosen": better, "score_rejected": 5}
            for better in (5.5, 7, 4)]  # fmt: skip
    rows.append({"prompt": [user()], "chosen": GOOD, "rejected": BAD})
    rows += [
        {**rows[1], "prompt": [user(f"{score}?")], "score_chosen": score} for score in (float("nan"), 10**400, "N/A")
    ]
    assert prepared(tmp_path, rows).report.kept == 7
    report = prepared(tmp_path, rows, min_score_margin=1.0).report
    assert report.kept == 1
    assert report.dropped == {"score_margin": 2, "no_score": 4}


TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}}]}  # fmt: skip
SHOWS_TOOLS = (
    "{% for tool in tools or [] %}TOOL {{ tool.function.name }}\n{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}CALL {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tool_calls_are_rendered_by_the_template(tmp_path: Path) -> None:
    row = {"prompt": [user("Rain?")], "chosen": [CALL], "rejected": [assistant("No idea.")], "tools": [TOOL]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(ROWS["OpenAI"][1]["input"] | {
        "prompt": [user()], "chosen": GOOD, "rejected": BAD}))  # fmt: skip
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.jsonl"), "format": "preference"}})
    tokenizer = tokenizer_of("chatml")
    old, tokenizer.chat_template = tokenizer.chat_template, SHOWS_TOOLS
    try:
        data = prepare(section, tokenizer, max_length=400, max_prompt_length=300, note=lambda _: None)
    finally:
        tokenizer.chat_template = old
    pair = expand_pair(data.train[0])
    prompt, full = (tokenizer.decode(pair[name]) for name in ("prompt_input_ids", "chosen_input_ids"))
    assert prompt == "TOOL weather\n<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n"
    assert full == prompt + 'CALL weather {"city": "Oslo"}<|im_end|>'
    assert data.report.kept == 2
    assert prepared_with_chatml(section).dropped == {"template_error": 1}  # which would lose the call


def prepared_with_chatml(section: DatasetSection) -> Any:
    return prepare(section, tokenizer_of("chatml"), max_length=400, max_prompt_length=300, note=lambda _: None).report


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ([{"function": {"arguments": {}}}], "without a name"),
        ("weather()", "not a list"),
        ([{"function": {"name": "weather", "arguments": "{city"}}], "not JSON"),
    ],
)
def test_an_invalid_tool_call_names_the_reason(call: Any, message: str) -> None:
    row = {"prompt": [user()], "chosen": [{"role": "assistant", "content": "", "tool_calls": call}], "rejected": BAD}
    with pytest.raises(RowRejected, match=message):
        detect_format([row], "preference").read(row, Counter())


def test_sharegpt_function_calls_are_separate_turns() -> None:
    row = {"conversations": [{"from": "human", "value": "Rain?"}], "tools": json.dumps([TOOL]),
           "chosen": {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})},
           "rejected": {"from": "gpt", "value": "No idea."}}  # fmt: skip
    pair = detect_format([row]).read(row, Counter())
    assert pair.tools == (TOOL,)
    assert pair.chosen[-1].tool_calls[0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}  # type: ignore[union-attr]
