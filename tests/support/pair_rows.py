"""Rows of several turns or of several rejected answers, read into pairs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.turns import read_pairs
from orpo_cli.recipe.schema import DatasetSection

IDS = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")


def dataset_section(**settings: Any) -> DatasetSection:
    return DatasetSection.model_validate({"train": {"path": "x.jsonl"}, **settings})


def read_row_pairs(row: dict[str, Any], **settings: Any) -> tuple[list[Pair | RowRejected], Counter[str]]:
    notes: Counter[str] = Counter()
    dataset = dataset_section(**settings)
    format_ = detect_format([row], seed=dataset.shuffle_seed)
    return read_pairs(row, format_, dataset, notes), +notes


def texts_of(found: list[Pair | RowRejected]) -> list[tuple[str, str, str]]:
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


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TWO_TURN_PAIRS = [
    ("user:one", "good 1", "bad 1"),
    ("user:one assistant:good 1 user:two", "good 2", "bad 2"),
]
TWO_TURN_ROWS: dict[str, dict[str, Any]] = {
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
SEVERAL_REJECTED: dict[str, dict[str, Any]] = {
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
