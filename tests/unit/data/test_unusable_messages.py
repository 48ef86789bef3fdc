"""Rows with media and malformed messages: dropped, counted, and reported with a remedy."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from support.message_rows import ASK, BAD, CHOSEN, GOOD, REJECTED, SYSTEM_ROWS, USER, data_error, prepared, rejection

DATE = datetime.date(2024, 5, 1)  # Parquet has dates
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
    found = data_error(tmp_path, [IMAGE_ROWS[name]])
    assert "1 not_text: the row has an image, audio or video" in found.message
    assert "trains text only" in str(found.remedy)


@pytest.mark.parametrize("value", [None, [], "", {"bytes": None, "path": None}, "swebench/eval.x86:latest"])
def test_rows_without_media_in_a_column_of_that_name_are_trained(value: Any, tmp_path: Path) -> None:
    row = {**SYSTEM_ROWS["messages"], "image": value}
    assert prepared(tmp_path, [row]).report.kept == 1


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
    "a date in tools": ({"prompt": [USER], "chosen": [CHOSEN], "rejected": BAD, "tools": [{"name": DATE}]}, "as text"),
    "a date in a result": ({"prompt": [USER, {"role": "tool", "content": {"on": DATE}}], "chosen": [CHOSEN], "rejected": BAD}, "as text"),
    "a call without a name": ({"prompt": [USER], "chosen": {"role": "tool_call", "content": {}}, "rejected": BAD}, "name and arguments"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_the_remedy_of_a_malformed_row_fits_its_reason(name: str) -> None:
    row, remedy = MALFORMED[name]
    found = rejection(row, "preference")
    assert found.reason == "malformed"
    assert remedy in str(found.remedy)
