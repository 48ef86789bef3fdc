"""Nulls that Arrow adds to tools and tool calls: the same rows from every container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import feather, parquet
from support.data_sources import lines, load, write

from orpo_cli.data.sources.arrow_nulls import null_remover


def tool(name: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": properties, "required": [*properties]},
        },
    }


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}  # fmt: skip


ROWS = [
    {
        "tools": [tool("roll", sides={"type": "integer"}), tool("say", text={"type": "string", "enum": ["a", "b"]})],
        "prompt": [{"role": "user", "content": "Roll."}],
        "chosen": [call("roll", sides=6)],
        "rejected": [{"role": "assistant", "content": "Four."}],
    },
    {
        "tools": [tool("weather", city={"type": "string"}, day={"anyOf": [{"type": "string"}, {"type": "null"}]})],
        "prompt": [{"role": "user", "content": "Rain?"}],
        "chosen": [call("weather", city="Ulm", where={"lat": 1.5})],
        "rejected": [call("weather", city="Bonn")],
    },
]


def only_tools(row: dict[str, Any]) -> Any:
    calls = [message.get("tool_calls") or [] for column in ("chosen", "rejected") for message in row[column]]
    return json.dumps([row["tools"], calls], sort_keys=True)


def save(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "arrow":
        feather.write_feather(pa.Table.from_pylist(rows), path)
    elif kind == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    elif kind == "saved-dict":
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(path)
    else:
        write(path, lines(rows))
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "saved", "saved-dict", "jsonl"])
def test_tools_are_the_same_from_every_container(kind: str, tmp_path: Path) -> None:
    found = [row for _, row in load(save(ROWS, kind, tmp_path))]
    assert [only_tools(row) for row in found] == [only_tools(row) for row in ROWS]
    assert [row["prompt"] for row in found] == [row["prompt"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "path"), [("functions", "functions"), ("abilities", "abilities"), ("meta", "meta.list")]
)
def test_the_column_of_the_tools_can_have_another_name(name: str, path: str, tmp_path: Path) -> None:
    rows = [
        {**{key: row[key] for key in ("prompt", "chosen", "rejected")}, name: {"list": row["tools"]} if "." in path else row["tools"]}
        for row in ROWS
    ]  # fmt: skip
    found = [row for _, row in load(save(rows, "parquet", tmp_path), columns={"tools": path})]
    for row, (_, read) in zip(ROWS, enumerate(found), strict=True):
        tools = read[name]["list"] if "." in path else read[name]
        assert json.dumps(tools, sort_keys=True) == json.dumps(row["tools"], sort_keys=True)


def test_nulls_elsewhere_stay(tmp_path: Path) -> None:
    rows = [{"prompt": None, "chosen": {"score": None, "text": "a"}, "n": 1}, {"prompt": "p", "chosen": {"score": 2.0, "text": None}, "n": None}]  # fmt: skip
    assert [row for _, row in load(save(rows, "parquet", tmp_path))] == rows


def test_a_row_without_tools_is_not_copied() -> None:
    row = {"prompt": None, "tools": "[]"}
    assert null_remover(pa.schema({"prompt": pa.string(), "tools": pa.string()}), {})(row) is row
    nested = {"tools": [{"a": None}], "x": [None, {"b": None}]}
    assert null_remover(None, {})(nested) == {"tools": [{}], "x": [None, {"b": None}]}
    assert null_remover(None, {})(["no", "dict"]) == ["no", "dict"]
