"""Text rows on a chat model: the tokens of messages; where they stay text, and what the data report says of each case."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_tokenizers import NAMES, byte_level, tokenizer_of
from support.json_lines import write_json_lines
from support.tiny import pairs
from transformers import PreTrainedTokenizerFast

from orpo_cli.data.formats.preference import PREFERENCE, TEXT
from orpo_cli.data.pair import Message, Pair
from orpo_cli.data.pair_encoder import PairEncoder
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.data.text_pairs import TextPairs, trained_as_text
from orpo_cli.errors import DataError
from orpo_cli.evaluation.prompts import PromptBuilder
from orpo_cli.recipe.schema import DatasetSection

README_ROW = {
    "prompt": "Why is the sky blue?",
    "chosen": "Air scatters blue light the most.",
    "rejected": "What a question!",
}


@cache
def base_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without a chat template."""
    return byte_level(["<s>", "</s>"], None)


def read(
    folder: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast | None = None, **source: Any
) -> PreparedData:
    write_json_lines(folder / "x.jsonl", rows)
    section = DatasetSection.model_validate({"train": {"path": str(folder / "x.jsonl"), **source}})
    tokenizer = tokenizer or tokenizer_of("chatml")
    return prepare(section, tokenizer, max_length=400, max_prompt_length=300, note=lambda _: None)


def notes(prepared: PreparedData) -> dict[str, int]:
    return dict(prepared.report.sources[0].notes)


def as_messages(row: dict[str, str]) -> dict[str, Any]:
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {
        "prompt": [*system, {"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }


def decoded(prepared: PreparedData, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str, str]:
    pair = prepared.train[0]
    prompt, chosen, rejected = (
        tokenizer.decode(pair[name]) for name in ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
    )
    return prompt, chosen, rejected


@pytest.mark.parametrize("name", NAMES)
def test_a_text_row_has_the_tokens_of_the_same_messages_and_of_the_later_question(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    texts, messages = read(tmp_path, [README_ROW], tokenizer), read(tmp_path, [as_messages(README_ROW)], tokenizer)
    assert texts.report.fingerprints == messages.report.fingerprints
    assert notes(texts)["text_as_messages"] == 1
    assert "text_as_messages" not in notes(messages)
    asked = PromptBuilder(tokenizer, plain=False).from_text(README_ROW["prompt"])
    assert texts.train[0]["prompt_input_ids"] == asked.input_ids


text = st.text(min_size=1, max_size=30).filter(lambda found: found.strip() and "<" not in found and "[" not in found)


@settings(max_examples=40, deadline=None)
@given(
    prompt=text,
    answers=st.lists(text.filter(lambda found: not found[0].isspace()), min_size=2, max_size=2, unique=True),
)
@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral"])
def test_any_text_row_has_the_tokens_of_the_same_messages(name: str, prompt: str, answers: list[str]) -> None:
    encoder = PairEncoder(tokenizer_of(name))
    row = Pair(prompt, answers[0], answers[1])
    found = TextPairs(encoder.tokenizer, encoder.end_tokens, PREFERENCE).convert(row, Counter())
    expected = Pair(
        (Message("user", prompt),), (Message("assistant", answers[0]),), (Message("assistant", answers[1]),)
    )
    assert found == expected
    assert TextPairs(encoder.tokenizer, encoder.end_tokens, TEXT).convert(row, Counter()) == row


def test_the_format_text_keeps_plain_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatml")
    prepared = read(tmp_path, [README_ROW], format="text")
    assert decoded(prepared, tokenizer) == (
        "Why is the sky blue?",
        "Air scatters blue light the most.<|im_end|>",
        "What a question!<|im_end|>",
    )
    assert notes(prepared) == {"text_by_format": 1}
    assert any("1 rows of text are trained as they are" in line for line in prepared.report.lines())


def test_a_space_before_an_answer_is_removed_and_counted(tmp_path: Path) -> None:
    prepared = read(tmp_path, [{**README_ROW, "chosen": " Air."}])
    assert decoded(prepared, tokenizer_of("chatml"))[1] == "Air.<|im_end|>"
    assert notes(prepared) == {"text_as_messages": 1, "answer_space_removed": 1}


def test_the_format_text_refuses_messages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the row has messages, and the format text is for texts") as caught:
        read(tmp_path, pairs(3), format="text")
    assert "remove `format: text`" in str(caught.value.remedy)


def test_text_rows_of_a_model_without_a_template_stay_as_they_are(tmp_path: Path) -> None:
    prepared = read(tmp_path, [{**README_ROW, "chosen": " Air."}], base_tokenizer())
    assert decoded(prepared, base_tokenizer()) == ("<s>Why is the sky blue?", " Air.</s>", "What a question!</s>")
    assert notes(prepared) == {"text_without_template": 1}


@pytest.mark.parametrize(
    "name", ["chatml", "llama3", "gemma", "zephyr", "mistral", "opened_thought", "plain", "thinking"]
)
def test_texts_that_are_rendered_already_stay_as_they_are(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    messages = as_messages({**README_ROW, "system": "Be brief."})
    prompt = tokenizer.apply_chat_template(messages["prompt"], tokenize=False, add_generation_prompt=True)
    row = {**README_ROW, "prompt": prompt}
    prepared, plain = read(tmp_path, [row], tokenizer), read(tmp_path, [row], tokenizer, format="text")
    assert notes(prepared) == {"text_rendered": 1}
    assert prepared.report.fingerprints == plain.report.fingerprints
    finished = [
        tokenizer.apply_chat_template([*messages["prompt"], *messages[part]], tokenize=False)
        for part in ("chosen", "rejected")
    ]
    whole = read(tmp_path, [{"chosen": finished[0], "rejected": finished[1]}], tokenizer)
    assert notes(whole)["text_rendered"] == 1


def test_rendered_texts_without_a_prompt_are_split_where_the_answer_starts(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatml")
    row = {"prompt": "Add 0 and 1.", "chosen": "It is 1.", "rejected": "It is 0."}
    turns = as_messages(row)
    texts = {
        part: tokenizer.apply_chat_template([*turns["prompt"], *turns[part]], tokenize=False)
        for part in ("chosen", "rejected")
    }
    assert decoded(read(tmp_path, [texts]), tokenizer) == decoded(read(tmp_path, [turns]), tokenizer)


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nWhy?<|im_end|>\n\n<|im_start|>assistant",  # another line break than the template's
        "\n<|im_start|>system\nBe brief.<|im_end|>\nWhy?",
    ],
)
def test_a_prompt_that_starts_as_a_turn_is_rendered_already(prompt: str, tmp_path: Path) -> None:
    assert notes(read(tmp_path, [{**README_ROW, "prompt": prompt}])) == {"text_rendered": 1}


def test_a_question_about_a_special_token_is_a_question(tmp_path: Path) -> None:
    prepared = read(tmp_path, [{**README_ROW, "prompt": "What does <|im_end|> mean?"}])
    assert notes(prepared) == {"text_as_messages": 1, "special_token_spelled": 1}


def test_the_template_writes_the_ends_that_the_texts_have(tmp_path: Path) -> None:
    row = {"prompt": "<s>Why?", "chosen": " So.</s>", "rejected": "No.</s>\n"}
    tokenizer = tokenizer_of("zephyr")
    assert decoded(read(tmp_path, [row], tokenizer), tokenizer) == (
        " <|user|>\nWhy?</s>\n<|assistant|>\n",
        "So.</s>",
        "No.</s>",
    )
    indented = {**row, "chosen": "  return 1", "rejected": "\n  return 2"}
    assert decoded(read(tmp_path, [indented], tokenizer), tokenizer)[1:] == ("  return 1</s>", "\n  return 2</s>")


def test_a_text_that_continues_after_its_end_is_dropped(tmp_path: Path) -> None:
    prepared = read(tmp_path, [{**README_ROW, "chosen": "Air.<|im_end|>\nuser: Why?"}, README_ROW])
    assert prepared.report.dropped == {"goes_on_after_end": 1}


def test_two_texts_without_a_prompt_stay_text_with_a_warning(tmp_path: Path) -> None:
    prepared = read(tmp_path, [{"chosen": "The sky is blue.", "rejected": "The sky is green."}])
    assert decoded(prepared, tokenizer_of("chatml")) == ("The sky is", " blue.<|im_end|>", " green.<|im_end|>")
    (line,) = [line for line in prepared.report.lines() if "have no prompt" in line]
    assert line.strip().startswith("warning: 1 rows of text")


def test_rows_of_both_kinds_in_a_source_are_said(tmp_path: Path) -> None:
    prepared = read(tmp_path, [README_ROW, *pairs(3)])
    assert prepared.report.kept == 4
    assert notes(prepared) == {"text_as_messages": 1, "text_and_messages": 3}
    assert any("warning: 3 rows have messages, while other rows" in line for line in prepared.report.lines())
    assert notes(read(tmp_path, pairs(3))) == {}


def test_dropped_rows_are_not_in_the_notes(tmp_path: Path) -> None:
    blank = {"prompt": "", "chosen": "", "rejected": ""}
    prepared = read(tmp_path, [*pairs(3), blank])
    assert prepared.report.dropped == {"empty_prompt": 1}
    assert notes(prepared) == {}
    prepared = read(tmp_path, [README_ROW, {"prompt": [], "chosen": [], "rejected": []}])
    assert notes(prepared) == {"text_as_messages": 1}


def test_a_second_system_column_is_said(tmp_path: Path) -> None:
    rows = [
        {**README_ROW, "system": "Be brief.", "system_prompt": text} for text in ("Be kind.", "Be brief.", "", None)
    ]
    rows = [{**row, "prompt": f"{row['prompt']} {number}"} for number, row in enumerate(rows)]
    assert notes(read(tmp_path, rows)) == {"text_as_messages": 4, "second_system_column": 1}


def test_a_text_that_repeats_its_prompt_becomes_messages_without_it(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Add {n} and 1.", "chosen": f"Add {n} and 1. {n + 1}", "rejected": f"Add {n} and 1. 0"}
        for n in range(1, 5)
    ]
    prepared = read(tmp_path, rows)
    assert decoded(prepared, tokenizer_of("chatml")) == (
        "<|im_start|>user\nAdd 1 and 1.<|im_end|>\n<|im_start|>assistant\n",
        "2<|im_end|>",
        "0<|im_end|>",
    )
    assert notes(prepared) == {"prompt_stored_twice": 4, "text_as_messages": 4}


def test_the_prompt_of_a_text_row_is_shown_as_a_message(tmp_path: Path) -> None:
    assert json.loads(read(tmp_path, [README_ROW]).train[0]["prompt_json"]) == [
        {"role": "user", "content": README_ROW["prompt"]}
    ]


def test_a_system_text_becomes_a_message_or_precedes_the_prompt(tmp_path: Path) -> None:
    row = Pair("Why?", "So.", "No.", system="Be brief.")
    tokenizer = tokenizer_of("chatml")
    found, counted = TextPairs(tokenizer, ["<|im_end|>"], PREFERENCE).convert(row, Counter()), Counter[str]()
    assert found.prompt == (Message("system", "Be brief."), Message("user", "Why?"))
    kept = TextPairs(base_tokenizer(), ["</s>"], PREFERENCE).convert(row, counted)
    assert (kept.prompt, kept.system) == ("Be brief.\n\nWhy?", "")
    assert +counted == {"text_without_template": 1, "system_before_prompt": 1}
    assert TextPairs(tokenizer, ["<|im_end|>"], TEXT).convert(row, Counter()).prompt == kept.prompt


@pytest.mark.parametrize(
    ("rows", "source", "expected"),
    [
        ([README_ROW], {"format": "text"}, True),
        ([README_ROW], {}, False),
        ([{"chosen": "The sky is blue.", "rejected": "The sky is green."}], {}, True),
        ([README_ROW, *pairs(2)], {}, False),
        (pairs(2), {}, False),
    ],
)
def test_the_data_report_says_whether_a_run_was_trained_on_plain_text(
    rows: list[dict[str, Any]], source: dict[str, str], expected: bool, tmp_path: Path
) -> None:
    report = json.loads(json.dumps(read(tmp_path, rows, **source).report.as_dict()))
    assert trained_as_text(report) is expected
    assert not trained_as_text({})
