"""Messages and columns as public data has them: system columns, JSON text, tool roles, media, prompts under other names."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of

from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.json_text import parse_cells, parse_json_text
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.data.roles import ROLES
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection

ASK, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "Nobody knows."
USER = {"role": "user", "content": ASK}
CHOSEN, REJECTED = {"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
EXPECTED = Pair((Message("user", ASK),), (Message("assistant", GOOD),), (Message("assistant", BAD),))
WITH_SYSTEM = Pair((Message("system", "Be brief."), *EXPECTED.prompt), EXPECTED.chosen, EXPECTED.rejected)  # type: ignore[arg-type]


def read(row: Any, wanted: str = "auto") -> Pair:
    return detect_format([row], wanted).read(row, Counter())


def rejection(row: Any, wanted: str = "auto") -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        read(row, wanted)
    return caught.value


def prepared(tmp_path: Path, rows: list[Any], **source: Any) -> PreparedData:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DatasetSection.model_validate({"train": {"path": str(path), **source}})
    return prepare(section, tokenizer_of("chatml"), max_length=400, max_prompt_length=300, note=lambda _: None)


def error(tmp_path: Path, rows: list[Any], **source: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, rows, **source)
    return caught.value


def text_of(data: PreparedData, row: int = 0) -> str:
    ids = data.train[row]
    return str(tokenizer_of("chatml").decode([*ids["prompt_input_ids"], *ids["chosen_answer_ids"]]))


# A system text beside the other columns

SYSTEM_ROWS: dict[str, dict[str, Any]] = {
    "messages": {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]},
    "conversations": {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]},
    "sharegpt": {"conversations": [{"from": "human", "value": ASK}], "chosen": CHOSEN, "rejected": REJECTED},
    "ms-swift": {"messages": [USER, CHOSEN], "rejected_response": BAD},
    "alpaca": {"instruction": ASK, "chosen": GOOD, "rejected": BAD},
    "OpenAI": {"input": {"messages": [USER]}, "preferred_output": [CHOSEN], "non_preferred_output": [REJECTED]},
    "judged": {"question": ASK, "response_a": GOOD, "response_b": BAD, "winner": "A"},
    "hh": {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {GOOD}", "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {BAD}"},
    "messages before the answers": {"messages": [USER], "chosen": GOOD, "rejected": BAD},
}


@pytest.mark.parametrize("name", SYSTEM_ROWS)
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_the_first_message_in_every_format(name: str, column: str) -> None:
    assert read({**SYSTEM_ROWS[name], column: "Be brief."}) == WITH_SYSTEM
    assert read({**SYSTEM_ROWS[name], column: None}) == read({**SYSTEM_ROWS[name], column: " "}) == EXPECTED


def test_a_system_column_can_hold_a_message() -> None:
    row = SYSTEM_ROWS["messages"]
    assert read({**row, "system": [{"role": "system", "content": "Be brief."}]}) == WITH_SYSTEM
    assert "another role" in rejection({**row, "system": [USER]}).detail


def test_the_system_column_of_scored_completions_is_used() -> None:
    completions = [{"response": GOOD, "overall_score": 9}, {"response": BAD, "overall_score": 1}]
    pair = read({"instruction": ASK, "completions": completions, "system": "Be brief."})
    assert pair.prompt == WITH_SYSTEM.prompt


def test_the_system_text_of_text_rows_is_trained(tmp_path: Path) -> None:
    data = prepared(tmp_path, [{"system": "Be brief.", "prompt": ASK, "chosen": GOOD, "rejected": BAD}])
    assert text_of(data) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{GOOD}<|im_end|>"
    )
    assert data.report.sources[0].unused_columns == []


def test_answers_of_one_prompt_form_a_pair_only_under_the_same_system_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "completion": GOOD, "label": True, "system": "Be brief."},
        {"prompt": ASK, "completion": "Magic.", "label": False, "system": "Be long."},
        {"prompt": ASK, "completion": BAD, "label": False, "system": "Be brief."},
    ]
    data = prepared(tmp_path, rows)
    assert data.report.dropped == {"unpaired": 1}
    assert "system\nBe brief.<" in text_of(data)


def test_a_system_column_beside_a_system_message_is_counted(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be long."}, USER]
    rows = [
        {"prompt": turns, "chosen": GOOD, "rejected": BAD, "system": "Be brief."},
        {"prompt": [*turns[:1], {**USER, "content": "Why?"}], "chosen": GOOD, "rejected": BAD, "system": "Be long."},
    ]
    data = prepared(tmp_path, rows)
    assert "system\nBe long.<" in text_of(data)
    assert data.report.sources[0].notes["system_column_unused"] == 1


def test_a_system_text_alone_is_no_prompt(tmp_path: Path) -> None:
    assert (
        "empty_prompt" in error(tmp_path, [{"chosen": [CHOSEN], "rejected": [REJECTED], "system": "Be brief."}]).message
    )


# Roles


@pytest.mark.parametrize("role", ["developer", "Developer", " system "])
def test_developer_is_system(role: str) -> None:
    row = {"prompt": [{"role": role, "content": "Be brief."}, USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
    assert read(row) == WITH_SYSTEM


@pytest.mark.parametrize("role", ["prompter", "human", "Human"])
def test_names_of_the_user_are_read(role: str) -> None:
    row = {"prompt": [{"role": role, "content": ASK}], "chosen": {"role": "ai", "content": GOOD}, "rejected": BAD}
    assert read(row) == EXPECTED


@pytest.mark.parametrize("keys", [("role", "text"), ("from", "value"), ("role", "parts")])
def test_names_of_keys_are_read(keys: tuple[str, str]) -> None:
    def message(role: str, text: str) -> dict[str, Any]:
        return {keys[0]: role, keys[1]: [{"text": text}] if keys[1] == "parts" else text}

    row = {"prompt": [message("user", ASK)], "chosen": [message("model", GOOD)], "rejected": [message("model", BAD)]}
    assert read(row) == EXPECTED


def test_an_unknown_role_names_all_known_roles(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "wizard", "content": ASK}], "chosen": [CHOSEN], "rejected": [REJECTED]}]
    found = error(tmp_path, rows)
    assert "prompt[0] has the role 'wizard'" in found.message
    assert all(f" {role}" in str(found.remedy) for role in ROLES)
    assert "format:" not in str(found.remedy)
    kept = prepared(tmp_path, [*rows, SYSTEM_ROWS["messages"]]).report.sources[0].lines()
    assert any("Known roles: system, developer" in line and "tool_call" in line for line in kept)


def swift_row(*calls: Any) -> dict[str, Any]:
    turns = [
        USER,
        *({"role": "tool_call", "content": call} for call in calls),
        {"role": "tool_response", "content": "4 C"},
    ]
    return {"messages": [*turns, CHOSEN], "rejected_response": BAD}


@pytest.mark.parametrize("call", [json.dumps(CALL), CALL, str(CALL), {"function": CALL}, [CALL]])
def test_tool_roles_of_ms_swift_are_calls_and_results(call: Any) -> None:
    pair = read(swift_row(call))
    assert [message.role for message in pair.prompt] == ["user", "assistant", "tool"]  # type: ignore[union-attr]
    assert pair.prompt[1].tool_calls == [{"type": "function", "function": CALL}]  # type: ignore[union-attr]
    assert pair.prompt[2] == Message("tool", "4 C")


def test_tool_calls_of_one_turn_are_one_message() -> None:
    second = {"name": "weather", "arguments": {"city": "Bonn"}}
    pair = read(swift_row(CALL, second))
    assert [each["function"] for each in pair.prompt[1].tool_calls] == [CALL, second]  # type: ignore[union-attr]
    spoken = {"messages": [USER, {"role": "assistant", "content": "I look."}, *swift_row(CALL)["messages"][1:]],
              "rejected_response": BAD}  # fmt: skip
    message = read(spoken).prompt[1]
    assert isinstance(message, Message)
    assert (message.content, len(message.tool_calls)) == ("I look.", 1)


@pytest.mark.parametrize("role", ["tool", "function", "ipython", "observation", "tool_response"])
@pytest.mark.parametrize("content", [{"t": 4}, [1, {"t": 4}], '{"t": 4}'])
def test_results_of_tools_may_be_data(role: str, content: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]}
    row = {"prompt": [USER, call, {"role": role, "content": content}], "chosen": [CHOSEN], "rejected": [REJECTED]}
    assert read(row).prompt[2].content == (content if isinstance(content, str) else json.dumps(content))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"content": None, "tool_calls": json.dumps([CALL])},
        {"content": None, "tool_calls": [{"name": "weather", "parameters": {"city": "Oslo"}}]},
    ],
)
def test_older_forms_of_tool_calls_are_read(message: dict[str, Any]) -> None:
    row = {"prompt": [USER], "chosen": [{"role": "assistant", **message}], "rejected": BAD}
    assert read(row).chosen[0].tool_calls[0]["function"] == CALL  # type: ignore[union-attr]


def test_null_calls_of_a_table_are_no_calls() -> None:
    nulls = {"function_call": {"name": None, "arguments": None}, "tool_calls": None}
    assert read({"prompt": [{**USER, **nulls}], "chosen": [{**CHOSEN, **nulls}], "rejected": [REJECTED]}) == EXPECTED


@pytest.mark.parametrize("form", [lambda tool: json.dumps([tool]), lambda tool: [json.dumps(tool)], str, dict])
def test_tools_may_be_text_or_one_object(form: Any) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}}
    row = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED], "tools": form(tool)}
    assert read(row).tools == (tool,)


# Messages as text

PYTHON = "[{'role': 'user', 'content': \"it's\"}, {'role': 'assistant', 'content': None, 'x': True}]"
NUMPY = "[{'content': 'a}\\n {b', 'role': 'user'}\n {'content': \"it's\", 'role': 'assistant'}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps([USER, CHOSEN]), [USER, CHOSEN]),
        (json.dumps(json.dumps([USER])), [USER]),
        (f"\n {json.dumps([USER], indent=2)} ", [USER]),
        (PYTHON, [{"role": "user", "content": "it's"}, {"role": "assistant", "content": None, "x": True}]),
        (NUMPY, [{"content": "a}\n {b", "role": "user"}, {"content": "it's", "role": "assistant"}]),
    ],
)
def test_json_python_and_numpy_text_is_parsed(text: str, expected: Any) -> None:
    assert parse_json_text(text) == expected
    assert parse_cells({"chosen": text}) == {"chosen": expected}


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ann", "role": "admin", "content": "x"}',  # an object with a role that is none of a conversation
        '[{"role": "admin"}]',
        '{"from": "Oslo", "to": "Bonn"}',
        "[1, 2]",
        '["a", "b"]',
        "{role}",
        '"from" quoted',
        "__import__('os').system('role')",
    ],
)
def test_json_that_is_no_messages_stays_text(answer: str) -> None:
    row = {"prompt": "Write JSON.", "chosen": answer, "rejected": "no"}
    assert parse_cells(row) is row


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '[{"role": ' * 50_000,
        "{'role': " + "-" * 100_000 + "1}",
        "[{'role': '" + "\\x'" * 50_000,
        "{'role': 9" + "9" * 9999,
    ],
)
def test_hostile_text_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each library has its own message
        parse_json_text(text)
    assert parse_cells({"chosen": text}) == {"chosen": text}


@pytest.mark.parametrize("encode", [json.dumps, str])
def test_messages_as_text_are_read_in_every_format(encode: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": ASK, "chosen": encode([USER, CHOSEN]), "rejected": encode([USER, REJECTED])},
        {"chosen": encode([USER, CHOSEN]), "rejected": encode([USER, REJECTED])},
        {"prompt": encode([USER]), "chosen": encode(CHOSEN), "rejected": encode(REJECTED)},
        {"messages": encode([USER, CHOSEN]), "rejected_response": BAD},
        {"conversations": encode([{"from": "human", "value": ASK}]), "chosen": encode(CHOSEN), "rejected": encode(REJECTED)},
        {"input": encode({"messages": [USER]}), "preferred_output": encode([CHOSEN]), "non_preferred_output": encode([REJECTED])},
        {"conversation_a": encode([USER, CHOSEN]), "conversation_b": encode([USER, REJECTED]), "winner": "A"},
        {"prompt": [encode(USER)], "chosen": [encode(CHOSEN)], "rejected": [encode(REJECTED)]},
    ]  # fmt: skip
    for row in rows:
        assert read(parse_cells(row)) == EXPECTED
    scored = encode([{"response": GOOD, "overall_score": 9}, {"response": BAD, "overall_score": 1}])
    assert read(parse_cells({"instruction": ASK, "completions": scored})).chosen == EXPECTED.chosen
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("prompt", "chosen", "rejected"))
        writer.writeheader()
        writer.writerow(rows[0])
    section = DatasetSection.model_validate({"train": {"path": str(tmp_path / "x.csv")}})
    data = prepare(section, tokenizer_of("chatml"), max_length=400, max_prompt_length=300, note=lambda _: None)
    assert text_of(data) == f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{GOOD}<|im_end|>"
    assert data.report.sources[0].notes["json_text_messages"] == 1


def test_damaged_text_of_messages_is_dropped_with_its_row(tmp_path: Path) -> None:
    good = {"prompt": ASK, "chosen": json.dumps([CHOSEN]), "rejected": json.dumps([REJECTED])}
    cut = {**good, "chosen": json.dumps([CHOSEN])[:-9]}
    report = prepared(tmp_path, [good, cut]).report.sources[0]
    assert report.dropped == {"malformed": 1}
    assert "x.jsonl:2 (chosen holds messages as text that is not JSON" in report.examples["malformed"][0]
    assert "format: text" in report.remedies["malformed"][0]


def test_text_of_messages_is_kept_by_the_format_text(tmp_path: Path) -> None:
    row = {"prompt": "Write messages.\n", "chosen": json.dumps([CHOSEN]), "rejected": json.dumps([REJECTED])}
    assert GOOD in text_of(data := prepared(tmp_path, [row], format="text"))
    assert json.dumps([CHOSEN]) in text_of(data)


# Media

IMAGE_ROWS = {
    "ms-swift": {"messages": [{**USER, "content": "<image>What?"}, CHOSEN], "rejected_response": BAD, "images": ["c.png"]},
    "LLaMA-Factory": {**SYSTEM_ROWS["sharegpt"], "images": ["a.png"]},
    "a file of the hub": {"question": ASK, "chosen": GOOD, "rejected": BAD, "image": {"bytes": None, "path": "a.png"}},
    "an address": {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "image": "https://x.org/a.JPG?size=2"},
    "content parts": {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}},
                                                              {"type": "text", "text": ASK}]}], "chosen": [CHOSEN], "rejected": BAD},
    "audio": {"prompt": ASK, "chosen": GOOD, "rejected": BAD, "audio": {"array": [0.1], "sampling_rate": 16000}},
    "video of KTO": {"prompt": ASK, "completion": GOOD, "label": True, "videos": ["a.mp4"]},
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_ROWS)
def test_rows_with_media_are_dropped_and_counted(name: str, tmp_path: Path) -> None:
    found = error(tmp_path, [IMAGE_ROWS[name]])
    assert "1 not_text: the row has an image, audio or video" in found.message
    assert "trains text only" in str(found.remedy)


@pytest.mark.parametrize("value", [None, [], "", {"bytes": None, "path": None}, "swebench/eval.x86:latest"])
def test_rows_without_media_in_a_column_of_that_name_are_trained(value: Any, tmp_path: Path) -> None:
    row = {**SYSTEM_ROWS["messages"], "image": value}
    assert prepared(tmp_path, [row]).report.kept == 1


# Prompts under other columns

MESSAGES = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]},
    {"role": "tool", "content": "4 C"},
]


@pytest.mark.parametrize("answers", [(CHOSEN, REJECTED), ([CHOSEN], [REJECTED]), (GOOD, BAD)])
def test_messages_before_single_answers_are_the_prompt(answers: tuple[Any, Any]) -> None:
    pair = read({"messages": MESSAGES, "chosen": answers[0], "rejected": answers[1]})
    assert [message.role for message in pair.prompt] == ["user", "assistant", "tool"]  # type: ignore[union-attr]
    assert (pair.chosen, pair.rejected) == (EXPECTED.chosen, EXPECTED.rejected)
    assert read({"messages": [USER, CHOSEN], "chosen": answers[0], "rejected": answers[1]}) == EXPECTED


def test_messages_are_not_read_beside_a_prompt_or_conversations(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "Other?"}]
    for row in (SYSTEM_ROWS["messages"], SYSTEM_ROWS["conversations"]):
        assert read({**row, "messages": other}) == EXPECTED
        assert prepared(tmp_path, [{**row, "messages": other}]).report.sources[0].unused_columns == ["messages"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("input", ASK), ("frage", ASK), ("user_query", ASK), ("dialogue", [USER]), ("last prompt", ASK)],
)
@pytest.mark.parametrize("answers", [(GOOD, BAD), ("It is air.", "It is magic."), (CHOSEN, REJECTED)])
def test_a_row_without_a_prompt_names_the_unused_column(
    column: str, value: Any, answers: tuple[Any, Any], tmp_path: Path
) -> None:
    row = {"system": "Be brief.", column: value, "chosen": answers[0], "rejected": answers[1], "status": "tie", "n": 1}
    found = error(tmp_path, [row])
    assert f"no prompt, and {column} is not used" in found.message
    name = json.dumps(column) if " " in column else column
    assert f"columns: {{prompt: {name}}}" in str(found.remedy)
    assert prepared(tmp_path, [row], columns={"prompt": column}).report.kept == 1


def test_the_common_start_of_texts_is_a_prompt_only_without_other_prompts(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"Q{n}: why?\nA: air", "rejected": f"Q{n}: why?\nA: magic", "source": "web", "id": f"{n:x}"}
        for n in range(9)
    ]
    assert prepared(tmp_path, rows).report.kept == 9
    noted = [{**row, "critique": f"Number {n} is better."} for n, row in enumerate(rows)]
    refused = error(tmp_path, noted)
    assert "no prompt, and critique is not used" in refused.message
    assert "set `format: preference` instead" in str(refused.remedy)
    assert prepared(tmp_path, noted, format="preference").report.kept == 9
    with_prompts = [{"prompt": f"Say {n}", "chosen": "yes it is", "rejected": "yes or no"} for n in range(9)]
    report = prepared(tmp_path, [*with_prompts, {**with_prompts[0], "prompt": None}]).report.sources[0]
    assert report.dropped == {"empty_prompt": 1}
    assert "most rows of the source have one" in report.examples["empty_prompt"][0]


def test_the_input_of_a_judged_instruction_is_part_of_the_prompt() -> None:
    row = {"instruction": "Translate.", "input": "Guten Tag", "output_1": GOOD, "output_2": BAD, "preference": 1}
    assert read(row).prompt == (Message("user", "Translate.\nGuten Tag"),)


def test_a_second_prompt_column_of_judged_rows_is_listed_as_unused(tmp_path: Path) -> None:
    row = {"question": ASK, "context": "A lesson.", "response_1": GOOD, "response_2": BAD, "label": 1}
    assert prepared(tmp_path, [row]).report.sources[0].unused_columns == ["context"]


def test_rows_of_no_format_get_a_mapping_to_try(tmp_path: Path) -> None:
    row = {"id": "x1", "question": ASK, "good_answer": GOOD, "bad_answer": BAD, "score": 2}
    remedy = str(error(tmp_path, [row]).remedy)
    assert "columns: {prompt: question, chosen: good_answer, rejected: bad_answer}" in remedy
    columns = {"prompt": "question", "chosen": "good_answer", "rejected": "bad_answer"}
    assert prepared(tmp_path, [row], columns=columns).report.kept == 1
    renamed = {"query": ASK, "preferred": GOOD, "non_preferred": BAD}
    assert "columns: {prompt: query, chosen: preferred, rejected: non_preferred}" in str(
        error(tmp_path, [renamed]).remedy
    )


def test_a_missing_answer_names_the_column_to_map(tmp_path: Path) -> None:
    row = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
    report = prepared(tmp_path, [row, {**row, "rejected": None}]).report.sources[0]
    assert report.remedies["malformed"] == [
        "Give both completions, or map their columns with `columns: {rejected: …}`."
    ]


MALFORMED = {
    "half of a character": ({"prompt": [{**USER, "content": "\ud800"}], "chosen": [CHOSEN], "rejected": [REJECTED]}, "UTF-8"),
    "a last message of the user": ({"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED, USER]}, "End both conversations"),
    "a prompt that ends in an answer": ({"prompt": [USER, CHOSEN], "chosen": [CHOSEN], "rejected": [REJECTED]}, "End the prompt"),
    "a message that is a text": ({"prompt": [USER, "x"], "chosen": [CHOSEN], "rejected": [REJECTED]}, "role and content"),
    "an unknown part": ({"prompt": [{"role": "user", "content": [{"type": "chart"}]}], "chosen": [CHOSEN], "rejected": BAD}, "type"),
    "tools that are a number": ({"prompt": [USER], "chosen": [CHOSEN], "rejected": BAD, "tools": 3}, "list of objects"),
    "tools that are no JSON": ({"prompt": [USER], "chosen": [CHOSEN], "rejected": BAD, "tools": "[{"}, "list of objects"),
    "a call that is empty": ({"prompt": [USER], "chosen": {"role": "tool_call", "content": ""}, "rejected": BAD}, "name and arguments"),
    "no call": ({"prompt": [USER], "chosen": {"role": "tool_call", "content": []}, "rejected": BAD}, "name and arguments"),
    "a call without a name": ({"prompt": [USER], "chosen": {"role": "tool_call", "content": {}}, "rejected": BAD}, "name and arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_the_remedy_of_a_malformed_row_fits_its_reason(name: str) -> None:
    row, remedy = MALFORMED[name]
    found = rejection(row, "preference")
    assert found.reason == "malformed"
    assert remedy in str(found.remedy)
