"""One question with two answers as rows of several formats, read alone or prepared from a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.data.formats.detect import detect_format
from orpo_cli.data.pair import Message, Pair, RowRejected
from orpo_cli.data.prepare import PreparedData
from orpo_cli.errors import DataError
from support.data_tokenizers import tokenizer_of
from support.prepared_rows import prepare_rows

ASK, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light.", "Nobody knows."
USER = {"role": "user", "content": ASK}
CHOSEN, REJECTED = {"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
EXPECTED = Pair((Message("user", ASK),), (Message("assistant", GOOD),), (Message("assistant", BAD),))
WITH_SYSTEM = Pair((Message("system", "Be brief."), *EXPECTED.prompt), EXPECTED.chosen, EXPECTED.rejected)  # type: ignore[arg-type]


def read_row(row: Any, wanted: str = "auto") -> Pair:
    return detect_format([row], wanted).read(row, Counter())


def rejection(row: Any, wanted: str = "auto") -> RowRejected:
    with pytest.raises(RowRejected) as caught:
        read_row(row, wanted)
    return caught.value


def prepared(folder: Path, rows: list[Any], **source: Any) -> PreparedData:
    return prepare_rows(folder / "x.jsonl", rows, source, max_length=400, max_prompt_length=300)


def data_error(folder: Path, rows: list[Any], **source: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        prepared(folder, rows, **source)
    return caught.value


def prepared_texts(data: PreparedData) -> list[tuple[str, str, str]]:
    """The last message of the prompt, and both completions, of each pair to train on."""
    return [
        (json.loads(row["prompt_json"])[-1]["content"], row["chosen_text"], row["rejected_text"]) for row in data.train
    ]


def text_of(data: PreparedData, row: int = 0) -> str:
    ids = data.train[row]
    return str(tokenizer_of("chatml").decode([*ids["prompt_input_ids"], *ids["chosen_answer_ids"]]))


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
