"""Pairs of several turns and of several rejected answers: shared histories, none twice, none lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data_tokenizers import tokenizer_of

from orpo_cli.data.filters import check_pair
from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.data.turns import read_pairs, row_of_pair
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import DatasetSection, PairRules

TEXTS = ("prompt_json", "chosen_text", "rejected_text")
IDS = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")


def section(**settings: Any) -> DatasetSection:
    return DatasetSection.model_validate({"train": {"path": "x.jsonl"}, **settings})


def read(row: dict[str, Any], **settings: Any) -> tuple[list[Pair | RowRejected], Counter[str]]:
    notes: Counter[str] = Counter()
    dataset = section(**settings)
    format_ = detect_format([row], seed=dataset.shuffle_seed)
    return read_pairs(row, format_, dataset, notes), +notes


def shown(found: list[Pair | RowRejected]) -> list[tuple[str, str, str]]:
    """Prompt, chosen and rejected text of each pair; the reason in place of one that was rejected."""
    return [
        (each.reason, "", "")
        if isinstance(each, RowRejected)
        else (
            each.prompt
            if isinstance(each.prompt, str)
            else " ".join(f"{turn.role}:{turn.content}" for turn in each.prompt),
            each.chosen_text,
            each.rejected_text,
        )
        for each in found
    ]


def run(path: Path, rows: list[Any], **settings: Any) -> PreparedData:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare(
        section(train={"path": str(path)}, **settings),
        tokenizer_of("chatml"),
        max_length=192,
        max_prompt_length=96,
        note=lambda _: None,
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TWO_TURNS = [
    ("user:one", "good 1", "bad 1"),
    ("user:one assistant:good 1 user:two", "good 2", "bad 2"),
]
SHAPES: dict[str, dict[str, Any]] = {
    "messages with a rejected text": {
        "messages": [
            user("one"),
            assistant("good 1", rejected="bad 1"),
            user("two"),
            assistant("good 2", rejected="bad 2"),
        ]
    },
    "nulls of a table": {
        "messages": [
            {**user("one"), "rejected": None},
            assistant("good 1", rejected="bad 1"),
            {**user("two"), "rejected": ""},
            assistant("good 2", rejected="bad 2"),
        ]
    },
    "from and value": {
        "conversations": [
            {"from": "human", "value": "one"},
            {"from": "gpt", "value": "good 1", "rejected": "bad 1"},
            {"from": "human", "value": "two"},
            {"from": "gpt", "value": "good 2", "rejected": "bad 2"},
        ]
    },
    "rejected messages": {
        "messages": [
            user("one"),
            assistant("good 1", rejected=assistant("bad 1")),
            user("two"),
            assistant("good 2", rejected=[assistant("bad 2")]),
        ]
    },
    "chosen and rejected of a message": {
        "messages": [
            user("one"),
            {"role": "assistant", "chosen": "good 1", "rejected": "bad 1"},
            user("two"),
            {"role": "assistant", "content": None, "chosen": assistant("good 2"), "rejected": "bad 2"},
        ]
    },
    "roles chosen and rejected": {
        "conversations": [
            {"from": "human", "value": "one"},
            {"from": "chosen", "value": "good 1"},
            {"from": "rejected", "value": "bad 1"},
            {"from": "human", "value": "two"},
            {"from": "rejected", "value": "bad 2"},
            {"from": "chosen", "value": "good 2"},
        ]
    },
    "questions with both answers": {
        "conversation": [
            {"human": "one", "chosen": "good 1", "rejected": "bad 1"},
            {"human": "two", "chosen": "good 2", "rejected": "bad 2"},
        ]
    },
    "turns": {
        "turns": [
            {"prompt": "one", "chosen": "good 1", "rejected": "bad 1"},
            {"prompt": "two", "chosen": "good 2", "rejected": "bad 2"},
        ]
    },
    "parallel lists": {
        "prompt": ["one", "two"],
        "chosen": ["good 1", "good 2"],
        "rejected": ["bad 1", "bad 2"],
    },
    "the last answers in columns": {
        "conversations": [user("one"), assistant("good 1", rejected="bad 1"), user("two")],
        "chosen": assistant("good 2"),
        "rejected": "bad 2",
    },
    "two conversations": {
        "chosen": [user("one"), assistant("good 1"), user("two"), assistant("good 2")],
        "rejected": [user("one"), assistant("bad 1"), user("two"), assistant("bad 2")],
    },
    "two conversations after a prompt": {
        "prompt": [user("one")],
        "chosen": [assistant("good 1"), user("two"), assistant("good 2")],
        "rejected": [assistant("bad 1"), user("two"), assistant("bad 2")],
    },
    "two conversations after a text": {
        "prompt": "one",
        "chosen": [assistant("good 1"), user("two"), assistant("good 2")],
        "rejected": [assistant("bad 1"), user("two"), assistant("bad 2")],
    },
    "two judged conversations": {
        "conversation_a": [user("one"), assistant("bad 1"), user("two"), assistant("bad 2")],
        "conversation_b": [user("one"), assistant("good 1"), user("two"), assistant("good 2")],
        "winner": "model_b",
    },
    "two transcripts": {
        "chosen": "\n\nHuman: one\n\nAssistant: good 1\n\nHuman: two\n\nAssistant: good 2",
        "rejected": "\n\nHuman: one\n\nAssistant: bad 1\n\nHuman: two\n\nAssistant: bad 2",
    },
    "ms-swift": {
        "messages": [user("one"), assistant("good 1"), user("two"), assistant("good 2")],
        "rejected_messages": [user("one"), assistant("bad 1"), user("two"), assistant("bad 2")],
    },
}
TWO_CONVERSATIONS = [name for name in SHAPES if name.startswith("two ") or name == "ms-swift"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_turn_with_two_answers_becomes_a_pair(shape: str) -> None:
    found, notes = read(SHAPES[shape], turns="all")
    assert shown(found) == TWO_TURNS
    assert notes == {"pairs_of_turns": 1}


@pytest.mark.parametrize("shape", SHAPES)
def test_by_default_only_the_last_turn_becomes_a_pair(shape: str) -> None:
    (found,), notes = read(SHAPES[shape])
    assert isinstance(found, Pair)
    if shape in TWO_CONVERSATIONS:  # the rejected answer was given after another history
        with pytest.raises(RowRejected) as caught:
            check_pair(found, PairRules())
        assert (caught.value.reason, notes) == ("histories_differ", {})
    else:
        check_pair(found, PairRules())
        assert shown([found]) == TWO_TURNS[1:]
        assert notes == {"turns_unused": 1}


def test_system_texts_and_tools_belong_to_every_turn() -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    for shape in ("messages with a rejected text", "ms-swift", "two conversations"):
        found, _ = read({**SHAPES[shape], "system": "Be brief.", "tools": tools}, turns="all")
        assert [prompt for prompt, *_ in shown(found)] == [f"system:Be brief. {prompt}" for prompt, *_ in TWO_TURNS]
        assert all(isinstance(pair, Pair) and pair.tools == tuple(tools) for pair in found)


def test_answers_without_a_rejected_one_are_history() -> None:
    row = {
        "messages": [
            user("one"), assistant("good 1"), user("two"), assistant("good 2", rejected="bad 2"), user("three"), assistant("good 3"),
        ]
    }  # fmt: skip
    for turns in ("last", "all"):
        assert shown(read(row, turns=turns)[0]) == TWO_TURNS[1:]


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
        read({"messages": messages})
    assert caught.value.reason == "malformed"


def test_two_conversations_are_split_up_to_the_first_other_message_that_differs() -> None:
    chosen = [user("one"), assistant("good 1"), user("two"), assistant("good 2")]
    rejected = [user("one"), assistant("bad 1"), user("other"), assistant("bad 2")]
    found, notes = read({"chosen": chosen, "rejected": rejected}, turns="all")
    assert shown(found) == [TWO_TURNS[0], ("histories_differ", "", "")]
    assert notes == {"pairs_of_turns": 1}
    found, _ = read({"chosen": chosen, "rejected": [*rejected[:2]]}, turns="all")
    assert shown(found) == [TWO_TURNS[0], ("histories_differ", "", "")]
    found, _ = read({"chosen": chosen, "rejected": [user("other"), *chosen[1:3], assistant("bad")]}, turns="all")
    assert shown(found) == [("histories_differ", "", "")]


def test_an_answer_in_two_messages_is_no_pair() -> None:
    chosen = [user("one"), assistant("good 1"), user("two"), assistant("good"), assistant("2")]
    rejected = [user("one"), assistant("bad 1"), user("two"), assistant("bad 2")]
    for better, worse in ((chosen, rejected), (rejected, chosen)):
        found, _ = read({"chosen": better, "rejected": worse}, turns="all")
        assert [isinstance(each, Pair) for each in found] == [True, False]
        assert shown(found)[1] == ("histories_differ", "", "")


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
    found, notes = read(row, turns="all", rejected="all")
    assert shown(found) == expected
    assert notes["pairs_of_turns"] + notes["pairs_of_rejected"] == len(expected) - 1
    last, notes = read(row)
    assert shown(last) == [next(pair for pair in expected if pair[0] == expected[-1][0])]
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
    found, notes = read(row, turns="all")
    if not expected:  # identical conversations: the pair is left to the rule `identical`
        assert len(found) == 1
    else:
        assert shown(found) == expected
        assert notes == Counter({"pairs_of_turns": len(expected) - 1}) - Counter()


def reply(text: str, rank: int | None, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "rank": rank, "replies": list(replies)}


def ask(text: str, *replies: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "role": "prompter", "rank": None, "replies": list(replies)}


TREE = ask(
    "q",
    reply("b", 1, ask("after b", reply("x", 0), reply("y", 1))),
    reply("a", 0, ask("q2", reply("c", 0), reply("d", 1)), ask("q3", reply("e", 1), reply("f", 2), reply("g", 0))),
    reply("unranked", None),
)
TREE_PAIRS = [
    ("user:q", "a", "b"),
    ("user:q assistant:a user:q2", "c", "d"),
    ("user:q assistant:a user:q3", "g", "e"),
    ("user:q assistant:a user:q3", "g", "f"),
]


def test_a_tree_is_followed_after_the_best_reply_only() -> None:
    row = {"message_tree_id": "1", "prompt": TREE}
    found, notes = read(row, turns="all", rejected="all")
    assert shown(found) == TREE_PAIRS
    assert notes == {"pairs_of_turns": 2, "pairs_of_rejected": 1, "turns_below_others": 1}  # after b
    found, notes = read(row)  # the turns after which there is no other
    assert shown(found) == TREE_PAIRS[1:3]
    assert notes == {"pairs_of_turns": 1, "turns_unused": 1, "rejected_unused": 1, "turns_below_others": 1}
    assert shown(read(row, rejected="worst")[0]) == [TREE_PAIRS[1], TREE_PAIRS[3]]
    with pytest.raises(RowRejected, match="unpaired"):
        read({"prompt": ask("q", reply("a", 0))})


def _flat(node: dict[str, Any], tree: str, parent: str | None = None) -> list[dict[str, Any]]:
    name = f"{parent or tree}.{node['text']}"
    message = {"message_id": name, "parent_id": parent, "message_tree_id": tree, **node}
    del message["replies"]
    return [message, *(each for child in node["replies"] for each in _flat(child, tree, name))]


def test_trees_of_one_message_a_row_give_the_pairs_of_nested_trees(tmp_path: Path) -> None:
    trees = [TREE, ask("other", reply("a", 0), reply("b", 1))]
    flat = [message for number, tree in enumerate(trees) for message in _flat(tree, str(number))]
    orphan = {**flat[-1], "message_id": "z", "parent_id": "gone"}
    settings = {"turns": "all", "rejected": "all", "rules": {"duplicate": False}}
    nested = run(tmp_path / "nested.jsonl", [{"prompt": tree} for tree in trees], **settings)
    single = run(tmp_path / "flat.jsonl", [*flat, orphan], **settings)
    for column in (*TEXTS, *IDS):
        assert single.train[column][:] == nested.train[column][:]
    report = single.report.sources[0]
    assert (report.rows_read, report.kept, dict(report.dropped)) == (len(flat) + 1, 5, {"malformed": 1})
    assert report.notes["rows_gathered"] == len(flat)
    assert report.format == nested.report.sources[0].format == "oasst"


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """Trees whose texts are all different."""
    counter = iter(range(10_000))

    def node(depth: int, assistant_turn: bool) -> dict[str, Any]:
        count = draw(st.integers(0, 3)) if depth else 0
        children = [node(depth - 1, not assistant_turn) for _ in range(count)]
        ranks = draw(st.permutations(range(count)))
        if not assistant_turn:
            children = [{**child, "rank": rank} for child, rank in zip(children, ranks, strict=True)]
        role = "assistant" if assistant_turn else "prompter"
        return {"text": f"t{next(counter)}", "role": role, "rank": None, "replies": children}

    return node(depth, assistant_turn=False)


@given(trees(depth=5))
def test_pairs_of_a_tree_share_histories_without_rejected_answers(tree: dict[str, Any]) -> None:
    def expected(node: dict[str, Any], history: tuple[str, ...]) -> list[tuple[tuple[str, ...], str, str]]:
        history = (*history, node["text"])
        if node["role"] == "assistant":
            return [pair for child in node["replies"] for pair in expected(child, history)]
        ordered = sorted(node["replies"], key=lambda child: child["rank"])
        here = [(history, ordered[0]["text"], other["text"]) for other in ordered[1:]]
        return here + (expected(ordered[0], history) if ordered else [])

    wanted = expected(tree, ())
    if not wanted:
        with pytest.raises(RowRejected):
            read({"prompt": tree}, turns="all", rejected="all")
        return
    found = read({"prompt": tree}, turns="all", rejected="all")[0]
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    assert [
        (tuple(each.content for each in pair.prompt), pair.chosen_text, pair.rejected_text) for pair in pairs
    ] == wanted  # type: ignore[union-attr]
    assert len(set(wanted)) == len(pairs) == len(found)
    rejected = {pair.rejected_text for pair in pairs}
    assert not rejected & {message.content for pair in pairs for message in pair.prompt if isinstance(message, Message)}


SEVERAL: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "one", "chosen": "good", "rejected": ["bad 1", "bad 2", "bad 3"], "score_rejected": [3, 1, 2]},
    "texts after messages": {
        "prompt": [user("one")], "chosen": [assistant("good")], "rejected": ["bad 1", "bad 2", "bad 3"], "rejected_scores": [3, 1, 2],
    },
    "objects": {
        "prompt": "one",
        "chosen": {"text": "good", "score": 5},
        "rejected": [{"text": "bad 1", "score": 3}, {"text": "bad 2", "score": 1}, {"text": "bad 3", "score": 2}],
    },
    "messages": {
        "prompt": [user("one")], "chosen": assistant("good"), "rejected": [assistant("bad 1"), assistant("bad 2"), assistant("bad 3")],
        "rejected_rating": [3, 1, 2],
    },
    "conversations": {
        "chosen": [user("one"), assistant("good")],
        "rejected": [[user("one"), assistant(f"bad {number}")] for number in (1, 2, 3)],
        "rejected_score": ["3", "1", "2"],
    },
    "ms-swift": {
        "messages": [user("one"), assistant("good")], "rejected_response": ["bad 1", "bad 2", "bad 3"], "rejected_scores": [3, 1, 2],
    },
    "openai": {
        "input": {"messages": [user("one")]}, "preferred_output": [assistant("good")],
        "non_preferred_output": [assistant("bad 1"), assistant("bad 2"), assistant("bad 3")], "rejected_scores": [3, 1, 2],
    },
    "alpaca": {"instruction": "one", "chosen": "good", "rejected": ["bad 1", "bad 2", "bad 3"], "rejected_scores": [3, 1, 2]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "one"}], "chosen": {"from": "gpt", "value": "good"},
        "rejected": [{"from": "gpt", "value": "bad 1"}, {"from": "gpt", "value": "bad 2"}, {"from": "gpt", "value": "bad 3"}],
        "rejected_scores": [3, 1, 2],
    },
    "with nulls": {"prompt": "one", "chosen": "good", "rejected": ["bad 1", None, "bad 2", "bad 3"], "score_rejected": [3, None, 1, 2]},
    "UltraFeedback raw": {
        "instruction": "one",
        "completions": [
            {"response": "bad 1", "overall_score": 3}, {"response": "good", "overall_score": 9},
            {"response": "bad 2", "overall_score": 1}, {"response": "bad 3", "overall_score": 2},
        ],
    },
    "lists of responses and scores": {
        "prompt": "one", "responses": ["bad 1", "good", "bad 2", "bad 3"], "scores": [3, 9, 1, 2],
    },
    "distilabel": {
        "instruction": "one", "generations": ["bad 1", "good", "bad 2", "bad 3", "unrated"], "ratings": [3, 5, 1, 2, None],
    },
    "Nectar": {
        "prompt": "\n\nHuman: one\n\nAssistant: ",
        "answers": [
            {"answer": "bad 1", "model": "m", "rank": 2.0}, {"answer": "good", "model": "m", "rank": 1.0},
            {"answer": "bad 2", "model": "m", "rank": 7.0}, {"answer": "bad 3", "model": "m", "rank": 4.0},
        ],
    },
}  # fmt: skip
SCORED = ("UltraFeedback raw", "Nectar", "lists of responses and scores", "distilabel")


def rejected_texts(row: dict[str, Any], **settings: Any) -> list[str]:
    found, _ = read(row, **settings)
    prompts = {prompt for prompt, *_ in shown(found)}
    assert prompts <= {"one", "user:one"}
    assert {chosen for _, chosen, _ in shown(found)} == {"good"}
    return [rejected for *_, rejected in shown(found)]


@pytest.mark.parametrize("shape", SEVERAL)
def test_rejected_answers_are_chosen_by_the_setting(shape: str) -> None:
    row, every = SEVERAL[shape], ["bad 1", "bad 2", "bad 3"]
    assert rejected_texts(row, rejected="all") == every
    assert rejected_texts(row, rejected="worst") == ["bad 2"]
    drawn = [rejected_texts(row, rejected="random", shuffle_seed=seed)[0] for seed in range(20)]
    assert set(drawn) == set(every)
    assert drawn == [rejected_texts(row, rejected="random", shuffle_seed=seed)[0] for seed in range(20)]
    if shape in SCORED:
        assert [rejected_texts(row, shuffle_seed=seed)[0] for seed in range(20)] == drawn
    else:
        assert rejected_texts(row) == rejected_texts(row, rejected="first") == every[:1]
    assert read(row, rejected="all")[1]["pairs_of_rejected"] == 2
    assert read(row, rejected="random")[1] == {"rejected_unused": 2}


@pytest.mark.parametrize("shape", ["UltraFeedback raw", "Nectar"])
def test_a_drawn_completion_is_the_one_that_the_reader_draws(shape: str) -> None:
    for seed in range(20):
        drawn = detect_format([SEVERAL[shape]], seed=seed).read(SEVERAL[shape], Counter())
        assert read(SEVERAL[shape], shuffle_seed=seed)[0] == [drawn]


def test_an_answer_may_be_an_object_with_a_text_and_a_score() -> None:
    row = {"prompt": "one", "chosen": {"text": "good", "score": 5}, "rejected": {"response": "bad", "rating": 2}}
    assert read(row) == ([Pair("one", "good", "bad", (5.0, 2.0))], {})
    row = {"prompt": "one", "chosen": ["good"], "rejected": ["bad"]}
    assert read(row) == ([Pair("one", "good", "bad")], {})


def test_a_long_conversation_is_rendered_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orpo_cli.data import source_reader

    monkeypatch.setattr(source_reader, "BATCH_PAIRS", 3)
    messages = [
        each
        for number in range(10)
        for each in (user(f"q{number}"), assistant(f"good {number}", rejected=[f"bad {number}", f"worse {number}"]))
    ]
    prepared = run(
        tmp_path / "x.jsonl",
        [{"messages": messages}, {"messages": messages[:2]}],
        turns="all",
        rejected="all",
        max_prompt_length=96,
    )
    assert prepared.report.kept == 20
    assert prepared.report.dropped == {"duplicate": 2}
    assert prepared.train["row"][:] == [f"x.jsonl:1#{number}" for number in range(1, 21)]


def test_numbered_columns_are_rejected_answers() -> None:
    row = {"prompt": "one", "chosen": "good", "rejected_2": "bad 2", "rejected_1": "bad 1", "rejected_10": "bad 3"}
    assert rejected_texts(row, rejected="all") == ["bad 1", "bad 2", "bad 3"]
    row = {
        "prompt": "one",
        "chosen": "good",
        "rejected": "bad 1",
        "rejected2": "bad 2",
        "rejected3": None,
        "rejected4": "",
    }
    assert rejected_texts(row, rejected="all") == ["bad 1", "bad 2"]
    assert rejected_texts(row) == ["bad 1"]


def test_lists_of_rejected_answers_as_text_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": [user("one")], "chosen": "good", "rejected": '["bad 1", "bad 2"]', "rejected_scores": "[3, 1]"},
        {"prompt": [user("two")], "chosen": "good", "rejected": "['bad 3']"},
    ]
    numpy = {"prompt": [user("three")], "chosen": "good", "rejected": "['bad 4'\n 'bad 5']"}
    every = run(tmp_path / "x.jsonl", [*rows, numpy], rejected="all").train
    assert every["rejected_text"][:] == ["bad 1", "bad 2", "bad 3", "bad 4", "bad 5"]
    assert run(tmp_path / "x.jsonl", rows, rejected="worst").train["rejected_text"][:] == ["bad 2", "bad 3"]
    for answer in ({"chosen": '["a", "b"]'}, {"rejected": "[brackets"}):  # answers that are lists, not lists of answers
        kept = run(tmp_path / "x.jsonl", [rows[0], {**rows[1], **answer}], rejected="all").train
        assert kept["rejected_text"][0] == rows[0]["rejected"]


def test_the_worst_answer_needs_a_score_for_each() -> None:
    for scores in ({}, {"score_rejected": [3, None]}):
        (found,), _ = read({"prompt": "one", "chosen": "good", "rejected": ["a", "b"], **scores}, rejected="worst")
        assert isinstance(found, RowRejected)
        assert found.reason == "no_score"
    (found,), _ = read({"prompt": "one", "chosen": "good", "rejected": ["a"]}, rejected="worst")
    assert isinstance(found, Pair)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": ["a", "b"], "rejected": ["c", "d"]}, "malformed"),
        ({"score_rejected": [1]}, "malformed"),
        ({"rejected": [None]}, "empty_rejected"),
    ],
)
def test_a_list_that_cannot_be_split_is_rejected(changes: dict[str, Any], reason: str) -> None:
    row = {"prompt": "one", "chosen": "good", "rejected": ["a", "b"]}
    notes: Counter[str] = Counter()
    (found,) = read_pairs({**row, **changes}, detect_format([row]), section(), notes)
    assert isinstance(found, RowRejected)
    assert found.reason == reason


def test_tool_calls_in_sequence_are_one_answer() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    steps = [assistant("", tool_calls=[call]), {"role": "tool", "content": "x"}, assistant("done")]
    row = {"prompt": [user("one")], "chosen": steps, "rejected": [*steps[:2], assistant("bad")]}
    assert len(read(row, rejected="all")[0]) == 1


ROWS = [
    {"prompt": [user("one")], "chosen": "good", "rejected": ["bad 1", "bad 2", "bad 1", "good", ""]},
    {"prompt": [user("two")], "chosen": "good", "rejected": ["bad 1"]},
    {"prompt": [user("three")], "chosen": "good", "rejected": 3},
]


def test_rows_pairs_and_drops_add_up(tmp_path: Path) -> None:
    for rejected, kept, drops in (("all", 3, 4), ("first", 2, 1), ("random", 2, 1)):
        report = run(tmp_path / "x.jsonl", ROWS, rejected=rejected, shuffle_seed=4).report.sources[0]
        assert report.rows_read == 3
        assert report.rows_read + report.notes["pairs_of_rejected"] == report.kept + report.dropped.total()
        assert report.kept + report.dropped.total() == (7 if rejected == "all" else 3)
        if rejected == "all":
            assert (report.kept, report.dropped.total()) == (kept, drops)
            assert report.dropped == {"duplicate": 1, "identical": 1, "empty_rejected": 1, "malformed": 1}
            assert report.examples["duplicate"] == ["x.jsonl:1#3 (as x.jsonl:1#1)"]
            assert "  4 more pairs from rows with several rejected answers" in report.lines()
        else:
            assert any("4 further rejected answers are not used" in line for line in report.lines())


def test_rows_with_one_pair_keep_their_name(tmp_path: Path) -> None:
    names = run(tmp_path / "x.jsonl", ROWS, rejected="all").train["row"][:]
    assert names == ["x.jsonl:1#1", "x.jsonl:1#2", "x.jsonl:2"]
    assert [row_of_pair(name) for name in names] == ["x.jsonl:1", "x.jsonl:1", "x.jsonl:2"]
    assert row_of_pair("a#1.jsonl:3") == "a#1.jsonl:3"


def test_the_tokens_of_a_turn_are_those_of_the_same_pair_in_a_row(tmp_path: Path) -> None:
    alone = [
        {"prompt": [user("one")], "chosen": "good 1", "rejected": "bad 1"},
        {"prompt": [user("one"), assistant("good 1"), user("two")], "chosen": "good 2", "rejected": "bad 2"},
    ]
    expected = run(tmp_path / "alone.jsonl", alone).train
    for shape in SHAPES:
        prepared = run(tmp_path / "x.jsonl", [SHAPES[shape]], turns="all")
        for column in IDS:
            assert prepared.train[column][:] == expected[column][:], shape
        assert prepared.report.sources[0].unused_columns == []


@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_of_a_row_are_not_split_between_train_and_eval(tmp_path: Path, seed: int) -> None:
    rows = [
        {"prompt": [user(f"question {n}")], "chosen": "good", "rejected": [f"bad {k}" for k in range(1 + n % 5)]}
        for n in range(30)
    ]
    for size in (1, 7, 0.3):
        prepared = run(tmp_path / "x.jsonl", rows, rejected="all", eval={"test_size": size}, shuffle_seed=seed)
        assert prepared.eval is not None
        parts = [prepared.train["row"][:], prepared.eval["row"][:]]
        assert len(parts[0]) + len(parts[1]) == 90
        wanted = size if isinstance(size, int) else 27
        assert wanted <= len(parts[1]) < wanted + 5
        assert not {row_of_pair(name) for name in parts[0]} & {row_of_pair(name) for name in parts[1]}
        assert prepared.report.leaked["pairs"] == 0
    with pytest.raises(DataError, match="leaves none to train on") as caught:
        run(tmp_path / "x.jsonl", rows[4:5], rejected="all", eval={"test_size": 1})
    assert "pairs of one row are not split" in str(caught.value.remedy)


def test_the_rule_of_equal_prompts_compares_rows(tmp_path: Path) -> None:
    rows = [
        {"prompt": [user("one")], "chosen": "good", "rejected": ["bad 1", "bad 2"]},
        {"prompt": [user("ONE")], "chosen": "good", "rejected": ["bad 3", "bad 4"]},
    ]
    prepared = run(tmp_path / "x.jsonl", rows, rejected="all", rules={"duplicate_prompt": True})
    assert prepared.train["row"][:] == ["x.jsonl:1#1", "x.jsonl:1#2"]
    assert prepared.report.dropped == {"duplicate_prompt": 2}


def test_the_settings_change_the_pairs_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    rows = [SHAPES["messages with a rejected text"]]
    counts = [len(run(tmp_path / "x.jsonl", rows, turns=turns).train) for turns in ("last", "all", "last")]
    assert counts == [1, 2, 1]
    rows = [SEVERAL["texts"]]
    drawn = [
        run(tmp_path / "y.jsonl", rows, rejected=choice).train["rejected_text"][:]
        for choice in ("first", "worst", "all")
    ]
    assert drawn == [["bad 1"], ["bad 2"], ["bad 1", "bad 2", "bad 3"]]


def test_margins_and_mapped_columns_apply_to_each_rejected_answer(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    row = {"q": "one", "best": "good", "worse": ["bad 1", "bad 2"], "score_chosen": 5, "score_rejected": [4.5, 1]}
    path.write_text(json.dumps(row))
    source = {
        "path": str(path),
        "columns": {"prompt": "q", "chosen": "best", "rejected": "worse"},
        "min_score_margin": 1,
    }
    prepared = prepare(
        section(train=source, rejected="all"),
        tokenizer_of("chatml"),
        max_length=64,
        max_prompt_length=32,
        note=lambda _: None,
    )
    assert prepared.train["rejected_text"][:] == ["bad 2"]
    assert prepared.report.dropped == {"score_margin": 1}
    assert prepared.report.sources[0].unused_columns == []
