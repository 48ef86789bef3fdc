"""The same pairs from every container: JSON Lines, csv and tsv with JSON text, Parquet, Arrow and saved datasets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import feather, parquet
from support.data_tokenizers import byte_level
from support.json_lines import write_json_lines

from orpo_cli.data.prepare import prepare
from orpo_cli.recipe.schema import DatasetSection

TEMPLATE = (
    "{{ tools | tojson if tools }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ message['tool_calls'] | tojson if message['tool_calls'] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Rows = list[dict[str, Any]]


def call(name: str, **arguments: Any) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    return [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


ROWS: Rows = [
    {
        "system": "Play fair.",
        "tools": [tool("roll", sides={"type": "integer"})],
        "prompt": [{"role": "user", "content": "Roll a die."}],
        "chosen": call("roll", sides=6),
        "rejected": answer("Four."),
    },
    {
        "system": "Be brief.",
        "tools": [tool("rain", city={"type": "string"}, day={"type": "string"}), tool("now")],
        "prompt": [{"role": "user", "content": "Rain in Ulm?"}],
        "chosen": call("rain", city="Ulm"),
        "rejected": call("now", zone="UTC"),
    },
]


def save(kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind.partition('-')[0]}"
    texts = [{name: value if name == "system" else json.dumps(value) for name, value in row.items()} for row in ROWS]
    if kind == "jsonl":
        write_json_lines(path, ROWS)
    elif kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, texts[0], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(texts)
    elif kind.startswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(texts if kind.endswith("text") else ROWS), path)
    elif kind == "arrow":
        feather.write_feather(pa.Table.from_pylist(ROWS), path)
    else:
        dataset = Dataset.from_list(ROWS)
        (DatasetDict(train=dataset) if kind == "saved-dict" else dataset).save_to_disk(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "parquet-text", "arrow", "saved", "saved-dict"])
def test_every_container_gives_the_same_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], TEMPLATE)
    section = DatasetSection.model_validate({"train": {"path": str(save(kind, tmp_path))}})
    rows = prepare(section, tokenizer, max_length=2048, max_prompt_length=1024, note=lambda _: None).train
    texts = [
        tokenizer.decode(row["prompt_input_ids"] + row[f"{name}_answer_ids"])
        for row in rows
        for name in ("chosen", "rejected")
    ]
    conversations = [
        [{"role": "system", "content": row["system"]}, *row["prompt"], *row[name]]
        for row in ROWS
        for name in ("chosen", "rejected")
    ]
    expected = [
        str(tokenizer.apply_chat_template(conversation, tools=ROWS[index // 2]["tools"], tokenize=False)).rstrip("\n")
        for index, conversation in enumerate(conversations)
    ]
    assert texts == expected
