"""Example rows of each format, and the rejection of rows that do not fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from orpo_cli.data.filters import REASONS, REMEDIES, check_pair
from orpo_cli.data.formats.detect import FORMATS, detect_format, rename_columns
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import PairRules

USER = {"role": "user", "content": "Why is the sky blue?"}
GOOD = {"role": "assistant", "content": "Air scatters blue light."}
BAD = {"role": "assistant", "content": "Nobody knows."}
EXPECTED = Pair(
    (Message("user", "Why is the sky blue?"),),
    (Message("assistant", "Air scatters blue light."),),
    (Message("assistant", "Nobody knows."),),
)


def read(row: Any, *, wanted: str = "auto", notes: Counter[str] | None = None) -> Pair:
    return detect_format([row], wanted).read(row, Counter() if notes is None else notes)


def reason(row: Any, wanted: str = "auto") -> str:
    with pytest.raises(RowRejected) as caught:
        check_pair(read(row, wanted=wanted), PairRules())
    return caught.value.reason


CONVERSATIONAL = {
    "explicit prompt": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "implicit prompt": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt list repeated in the answers": {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt text repeated in the answers": {"prompt": USER["content"], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt text": {"prompt": USER["content"], "chosen": [GOOD], "rejected": [BAD]},
    "messages of both kinds in one table": {
        "prompt": [{**USER, "from": None, "value": None}],
        "chosen": [{"role": None, "content": None, "from": "gpt", "value": GOOD["content"]}],
        "rejected": [{**BAD, "from": None, "value": None}],
    },
    "single messages": {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
    "answers as texts": {"prompt": [USER], "chosen": GOOD["content"], "rejected": BAD["content"]},
    "content in parts": {
        "prompt": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Why is "}, {"type": "text", "text": "the sky blue?"}],
            }
        ],
        "chosen": [GOOD],
        "rejected": [BAD],
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Why is the sky blue?"}],
        "chosen": {"from": "gpt", "value": "Air scatters blue light."},
        "rejected": {"from": "gpt", "value": "Nobody knows."},
    },
    "hh": {
        "chosen": "\n\nHuman: Why is the sky blue?\n\nAssistant: Air scatters blue light.",
        "rejected": "\n\nHuman: Why is the sky blue?\n\nAssistant:  Nobody knows. ",
    },
    "hh with prompt": {
        "prompt": "\n\nHuman: Why is the sky blue?\n\nAssistant:",
        "chosen": " Air scatters blue light.",
        "rejected": " Nobody knows.",
    },
}


@pytest.mark.parametrize("shape", CONVERSATIONAL)
def test_every_conversational_format_reads_the_same_pair(shape: str) -> None:
    assert read(CONVERSATIONAL[shape]) == EXPECTED


@pytest.mark.parametrize(
    ("shape", "name"),
    [("sharegpt", "sharegpt"), ("hh", "hh"), ("hh with prompt", "hh"), ("explicit prompt", "preference")],
)
def test_formats_are_detected_from_their_rows(shape: str, name: str) -> None:
    assert detect_format([CONVERSATIONAL[shape]]).name == name


def test_a_repeated_prompt_is_counted() -> None:
    for shape in ("prompt list repeated in the answers", "prompt text repeated in the answers"):
        notes: Counter[str] = Counter()
        read(CONVERSATIONAL[shape], notes=notes)
        assert notes["prompt_stored_twice"] == 1
    notes = Counter()
    read({"prompt": "something else", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, notes=notes)
    assert notes == {"prompt_column_unused": 1}
    notes = Counter()
    read(CONVERSATIONAL["explicit prompt"], notes=notes)
    assert notes == {}


def test_only_the_last_message_is_the_completion() -> None:
    history = [USER, {"role": "assistant", "content": "Light."}, {"role": "user", "content": "More, please."}]
    row = {
        "chosen": [*history, {"role": "assistant", "content": "The sky is blue because of air."}],
        "rejected": [*history, {"role": "assistant", "content": "The sky is green."}],
    }
    pair = read(row)
    assert [message.content for message in pair.prompt] == ["Why is the sky blue?", "Light.", "More, please."]  # type: ignore[union-attr]
    assert pair.chosen_text == "The sky is blue because of air."
    assert pair.rejected_text == "The sky is green."


def test_earlier_turns_under_chosen_are_part_of_the_prompt() -> None:
    more = {"role": "user", "content": "And at dusk?"}
    row = {"prompt": [USER], "chosen": [GOOD, more, GOOD], "rejected": [GOOD, more, BAD]}
    assert [message.role for message in read(row).prompt] == ["user", "assistant", "user"]  # type: ignore[union-attr]
    assert reason({"prompt": [USER], "chosen": [GOOD, more, GOOD], "rejected": [BAD, more, BAD]}) == "histories_differ"


def test_a_sharegpt_system_column_is_used_unless_there_is_a_system_turn() -> None:
    row = {**CONVERSATIONAL["sharegpt"], "system": "Be brief."}
    assert read(row).prompt[0] == Message("system", "Be brief.")
    turns = [{"from": "system", "value": "Be long."}, *CONVERSATIONAL["sharegpt"]["conversations"]]  # type: ignore[misc]
    assert read({**row, "conversations": turns}).prompt[0] == Message("system", "Be long.")
    assert read({**row, "system": None}) == EXPECTED


def test_texts_are_not_converted_to_messages() -> None:
    assert read({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}) == Pair(
        "The sky is", " blue.", " green."
    )


def test_repeated_prompts_are_removed_only_where_the_source_repeats_them() -> None:
    repeating = [{"prompt": f"Q{n}:", "chosen": f"Q{n}: yes", "rejected": f"Q{n}: no"} for n in range(10)]
    notes: Counter[str] = Counter()
    assert detect_format(repeating).read(repeating[3], notes) == Pair("Q3:", " yes", " no")
    assert notes == {"prompt_stored_twice": 1}
    greeting = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi."}
    others = [{"prompt": f"Question {n}", "chosen": "yes", "rejected": "no"} for n in range(10)]
    assert detect_format([greeting, *others]).read(greeting, Counter()) == Pair("Hi", "Hi there", "Hi.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),
        ("Q: why?\nA: air", "Q: why?\nA: magic", ("Q: why?\nA:", " air", " magic")),
        ("Why?\nair", "Why?\nalas", ("Why?\n", "air", "alas")),
        ("one two", "one two three", ("one", " two", " two three")),
        ("blue", "black", ("", "blue", "black")),
        ("yes indeed", "yes\tindeed", ("yes", " indeed", "\tindeed")),
    ],
)
def test_an_implicit_text_prompt_ends_at_a_word_boundary(
    chosen: str, rejected: str, expected: tuple[str, str, str]
) -> None:
    pair = read({"chosen": chosen, "rejected": rejected})
    assert (pair.prompt, pair.chosen, pair.rejected) == expected


def test_hh_transcripts_are_split_into_trimmed_turns() -> None:
    start = "\n\nHuman: Hello\n\nAssistant:  Hi!\n\nIt is Human: nature.  \n\nHuman: Why?\n\n"
    pair = read({"chosen": start + "Assistant: So.", "rejected": start + "Assistant: No."})
    assert pair.prompt == (
        Message("user", "Hello"),
        Message("assistant", "Hi!\n\nIt is Human: nature."),
        Message("user", "Why?"),
    )


def test_hh_transcripts_with_different_histories_or_ends_are_dropped() -> None:
    good = "\n\nHuman: Hello\n\nAssistant: Hi!"
    assert reason({"chosen": good, "rejected": "\n\nHuman: Hallo\n\nAssistant: Hi!"}) == "histories_differ"
    assert reason({"chosen": good, "rejected": good + "\n\nHuman: Bye"}) == "malformed"
    assert reason({"chosen": good, "rejected": "Preamble" + good}) == "malformed"
    assert reason({"chosen": good + "\n\nAssistant: More", "rejected": good + "\n\nAssistant: Less"}) == "malformed"
    assert reason({"chosen": "\n\nHuman: Hello\n\nAssistant:", "rejected": good}) == "empty_chosen"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [USER], "chosen": [GOOD], "rejected": None}, "empty_rejected"),
        ({"prompt": [USER], "chosen": [GOOD]}, "malformed"),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, "malformed"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{"role": "wizard", "content": "x"}]}, "malformed"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{"role": "assistant", "content": None}]}, "malformed"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{**BAD, "tool_calls": [{"id": "f"}]}]}, "malformed"),
        (
            {"prompt": [USER], "chosen": [GOOD], "rejected": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "not_text",
        ),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD, USER]}, "malformed"),
        ({"prompt": [USER, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "malformed"),
        ({"prompt": "half \ud83d", "chosen": "a", "rejected": "b"}, "malformed"),
        ({"prompt": [USER], "chosen": [], "rejected": [BAD]}, "empty_chosen"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": []}, "empty_rejected"),
        ({"prompt": [USER], "chosen": [{**GOOD, "content": " \n"}], "rejected": [BAD]}, "empty_chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "empty_rejected"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "empty_prompt"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "empty_prompt"),
        ({"prompt": [{**USER, "content": ""}], "chosen": [GOOD], "rejected": [BAD]}, "empty_prompt"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{**GOOD, "content": GOOD["content"] + "\n"}]}, "identical"),
        ({"chosen": "same", "rejected": "same"}, "identical"),
        ({"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Other?"}, BAD]}, "histories_differ"),
    ],
)
def test_unusable_rows_are_rejected_with_a_reason(row: dict[str, Any], expected: str) -> None:
    assert reason(row, "preference") == expected


def test_every_reason_has_a_description() -> None:
    assert set(REMEDIES) <= set(REASONS)
    assert all(REASONS.values())


def test_an_unknown_format_name_lists_the_known_ones() -> None:
    row = CONVERSATIONAL["hh"]
    assert read(row, wanted="preference").prompt == "\n\nHuman: Why is the sky blue?\n\nAssistant:"
    with pytest.raises(DataError) as caught:
        detect_format([row], "wizard")
    assert all(format_.name in str(caught.value.remedy) for format_ in FORMATS)


def test_rows_of_no_format_are_an_error_with_columns_and_formats() -> None:
    with pytest.raises(DataError) as caught:
        detect_format([{"question": "a", "answer": 1}, {"question": "b", "score": None}])
    assert "question (text), answer (a number), score (missing)" in caught.value.message
    assert all(format_.name in str(caught.value.remedy) for format_ in FORMATS)
    with pytest.raises(DataError, match="not objects"):
        detect_format(["a", 1])


def test_the_format_is_that_of_most_rows() -> None:
    assert detect_format([None, {"x": 1}, CONVERSATIONAL["sharegpt"], CONVERSATIONAL["sharegpt"]]).name == "sharegpt"


def test_columns_are_renamed_and_swapped() -> None:
    row = {"question": "q", "chosen": "worse", "better": "good", "id": 1}
    renamed = rename_columns(row, {"prompt": "question", "chosen": "better", "rejected": "chosen"})
    assert renamed == {"prompt": "q", "chosen": "good", "rejected": "worse", "id": 1}
