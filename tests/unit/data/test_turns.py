"""Pairs of conversations with two answers in several turns."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pair_rows import TWO_TURN_PAIRS, TWO_TURN_ROWS, assistant, read_row_pairs, texts_of, user

from orpo_cli.data.filters import check_pair
from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import PairRules

TWO_CONVERSATIONS = [name for name in TWO_TURN_ROWS if name.startswith("two ") or name == "ms-swift"]


@pytest.mark.parametrize("shape", TWO_TURN_ROWS)
def test_every_turn_with_two_answers_becomes_a_pair(shape: str) -> None:
    found, notes = read_row_pairs(TWO_TURN_ROWS[shape], turns="all")
    assert texts_of(found) == TWO_TURN_PAIRS
    assert notes == {"pairs_of_turns": 1}


@pytest.mark.parametrize("shape", TWO_TURN_ROWS)
def test_by_default_only_the_last_turn_becomes_a_pair(shape: str) -> None:
    (found,), notes = read_row_pairs(TWO_TURN_ROWS[shape])
    assert isinstance(found, Pair)
    if shape in TWO_CONVERSATIONS:  # the rejected answer was given after another history
        with pytest.raises(RowRejected) as caught:
            check_pair(found, PairRules())
        assert (caught.value.reason, notes) == ("histories_differ", {})
    else:
        check_pair(found, PairRules())
        assert texts_of([found]) == TWO_TURN_PAIRS[1:]
        assert notes == {"turns_unused": 1}


def test_system_texts_and_tools_belong_to_every_turn() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    for shape in ("messages with a rejected text", "ms-swift", "two conversations"):
        found, _ = read_row_pairs({**TWO_TURN_ROWS[shape], "system": "Be brief.", "tools": tools}, turns="all")
        assert [prompt for prompt, *_ in texts_of(found)] == [
            f"system:Be brief. {prompt}" for prompt, *_ in TWO_TURN_PAIRS
        ]
        assert all(isinstance(pair, Pair) and pair.tools == tuple(tools) for pair in found)


def test_answers_without_a_rejected_one_are_history() -> None:
    row = {
        "messages": [
            user("one"), assistant("good 1"), user("two"), assistant("good 2", rejected="bad 2"), user("three"), assistant("good 3"),
        ]
    }  # fmt: skip
    for turns in ("last", "all"):
        assert texts_of(read_row_pairs(row, turns=turns)[0]) == TWO_TURN_PAIRS[1:]


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ([user("one"), {**user("two"), "rejected": "bad"}], "role user has a rejected answer"),
        ([user("one"), {"role": "assistant", "rejected": "bad"}], "no chosen one"),
        ([user("one"), {"from": "rejected", "value": "bad"}], "0 messages of the role chosen"),
        ([user("one"), assistant("a", rejected="b"), "text"], "not a list of messages"),
    ],
)
def test_a_turn_without_two_answers_of_the_assistant_is_malformed(messages: list[Any], detail: str) -> None:
    with pytest.raises(RowRejected, match=detail) as caught:
        read_row_pairs({"messages": messages})
    assert caught.value.reason == "malformed"


def test_two_conversations_are_split_up_to_the_first_other_message_that_differs() -> None:
    chosen = [user("one"), assistant("good 1"), user("two"), assistant("good 2")]
    rejected = [user("one"), assistant("bad 1"), user("other"), assistant("bad 2")]
    found, notes = read_row_pairs({"chosen": chosen, "rejected": rejected}, turns="all")
    assert texts_of(found) == [TWO_TURN_PAIRS[0], ("histories_differ", "", "")]
    assert notes == {"pairs_of_turns": 1}
    found, _ = read_row_pairs({"chosen": chosen, "rejected": [*rejected[:2]]}, turns="all")
    assert texts_of(found) == [TWO_TURN_PAIRS[0], ("histories_differ", "", "")]
    found, _ = read_row_pairs(
        {"chosen": chosen, "rejected": [user("other"), *chosen[1:3], assistant("bad")]}, turns="all"
    )
    assert texts_of(found) == [("histories_differ", "", "")]


def test_an_answer_in_two_messages_is_no_pair() -> None:
    chosen = [user("one"), assistant("good 1"), user("two"), assistant("good"), assistant("2")]
    rejected = [user("one"), assistant("bad 1"), user("two"), assistant("bad 2")]
    for better, worse in ((chosen, rejected), (rejected, chosen)):
        found, _ = read_row_pairs({"chosen": better, "rejected": worse}, turns="all")
        assert [isinstance(each, Pair) for each in found] == [True, False]
        assert texts_of(found)[1] == ("histories_differ", "", "")


WORDS = st.text("abcdefg", min_size=1, max_size=4)


@given(st.lists(st.tuples(WORDS, WORDS, st.lists(WORDS, max_size=3)), min_size=1, max_size=6))
def test_each_rejected_answer_of_a_conversation_is_one_pair_after_the_chosen_history(
    turns: list[tuple[str, str, list[str]]],
) -> None:
    messages: list[dict[str, Any]] = []
    expected = []
    for question, chosen, rejected in turns:
        history = " ".join(f"{each['role']}:{each['content']}" for each in [*messages, user(question)])
        messages += [user(question), assistant(chosen, rejected=rejected or None)]
        expected += [(history, chosen, each) for each in rejected]
    row = {"messages": messages}
    if not expected:
        with pytest.raises(DataError):
            detect_format([row])
        return
    found, notes = read_row_pairs(row, turns="all", rejected="all")
    assert texts_of(found) == expected
    assert notes["pairs_of_turns"] + notes["pairs_of_rejected"] == len(expected) - 1
    last, notes = read_row_pairs(row)
    assert texts_of(last) == [next(pair for pair in expected if pair[0] == expected[-1][0])]
    assert 1 + notes["turns_unused"] + notes["rejected_unused"] <= len(expected)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6))
def test_each_turn_in_which_two_conversations_differ_is_one_pair(turns: list[tuple[str, str, str]]) -> None:
    chosen: list[Message] = []
    expected = []
    for question, better, worse in turns:
        chosen.append(Message("user", question))
        if better != worse:
            expected.append((" ".join(f"{each.role}:{each.content}" for each in chosen), better, worse))
        chosen.append(Message("assistant", better))
    rejected = [
        message for question, _, worse in turns for message in (Message("user", question), Message("assistant", worse))
    ]
    row = {
        name: [each.as_dict() for each in messages] for name, messages in (("chosen", chosen), ("rejected", rejected))
    }
    found, notes = read_row_pairs(row, turns="all")
    if not expected:  # identical conversations: the pair is left to the rule `identical`
        assert len(found) == 1
    else:
        assert texts_of(found) == expected
        assert notes == Counter({"pairs_of_turns": len(expected) - 1}) - Counter()
