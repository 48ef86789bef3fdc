"""Pairs of message trees: ranked replies at each prompt, in nested rows and in rows of one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pair_rows import IDS, read_row_pairs, texts_of
from support.prepared_rows import prepare_rows

from orpo_cli.data.formats.trees import group
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.sources.opened import Row

TEXTS = ("prompt_json", "chosen_text", "rejected_text")


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
    found, notes = read_row_pairs(row, turns="all", rejected="all")
    assert texts_of(found) == TREE_PAIRS
    assert notes == {"pairs_of_turns": 2, "pairs_of_rejected": 1, "turns_below_others": 1}  # after b
    found, notes = read_row_pairs(row)  # the turns after which there is no other
    assert texts_of(found) == TREE_PAIRS[1:3]
    assert notes == {"pairs_of_turns": 1, "turns_unused": 1, "rejected_unused": 1, "turns_below_others": 1}
    assert texts_of(read_row_pairs(row, rejected="worst")[0]) == [TREE_PAIRS[1], TREE_PAIRS[3]]
    with pytest.raises(RowRejected, match="unpaired"):
        read_row_pairs({"prompt": ask("q", reply("a", 0))})


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
    nested = prepare_rows(tmp_path / "nested.jsonl", [{"prompt": tree} for tree in trees], **settings)
    single = prepare_rows(tmp_path / "flat.jsonl", [*flat, orphan], **settings)
    for column in (*TEXTS, *IDS):
        assert single.train[column][:] == nested.train[column][:]
    mixed = prepare_rows(tmp_path / "mixed.jsonl", [*flat[::2], *flat[1::2]], **settings)
    assert sorted(mixed.train["chosen_text"]) == sorted(nested.train["chosen_text"])
    report = single.report.sources[0]
    assert (report.rows_read, report.kept, dict(report.dropped)) == (len(flat) + 1, 5, {"malformed": 1})
    assert report.notes["rows_gathered"] == len(flat)
    assert report.format == nested.report.sources[0].format == "oasst"


@pytest.mark.parametrize("root", ["", float("nan"), None])
@pytest.mark.parametrize("deleted", ["False", False, 0])
def test_messages_of_a_csv_file_are_a_tree(root: Any, deleted: Any) -> None:
    removed = {**_flat(ask("q", reply("gone", 0)), "1")[1], "deleted": {"False": "True"}.get(deleted, 1)}
    flat = [
        {"deleted": deleted, **message} for message in [*_flat(ask("q", reply("a", 0), reply("b", 1)), "1"), removed]
    ]
    flat[0]["parent_id"] = root
    rows = [Row(f"x.csv:{number}", row) for number, row in enumerate(flat, 1)]
    (tree,) = group(iter(rows), lambda *_: None)
    assert texts_of(read_row_pairs(tree.value)[0]) == [("user:q", "a", "b")]


HOSTILE: list[dict[str, Any]] = [
    {"prompt": ask("q", {**reply("a", 0), "role": ["x"]}, reply("b", 1))},
    {"prompt": ask("q", {**reply("a", 0), "replies": 5}, {**reply("b", 1), "replies": {"x": 1}})},
    {"message_id": ["x"], "parent_id": {"y": 1}, "message_tree_id": None, "text": "q", "role": "prompter"},
    {"message_id": 1, "parent_id": None, "message_tree_id": 1, "text": "q", "role": ["prompter"]},
]


@pytest.mark.parametrize("row", HOSTILE)
def test_a_message_of_other_values_costs_only_its_own_tree(row: dict[str, Any], tmp_path: Path) -> None:
    assert prepare_rows(tmp_path / "x.jsonl", [{"prompt": TREE}, row]).report.kept in (2, 3)


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
            read_row_pairs({"prompt": tree}, turns="all", rejected="all")
        return
    found = read_row_pairs({"prompt": tree}, turns="all", rejected="all")[0]
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    assert [
        (tuple(each.content for each in pair.prompt), pair.chosen_text, pair.rejected_text) for pair in pairs
    ] == wanted  # type: ignore[union-attr]
    assert len(set(wanted)) == len(pairs) == len(found)
    rejected = {pair.rejected_text for pair in pairs}
    assert not rejected & {message.content for pair in pairs for message in pair.prompt if isinstance(message, Message)}
