"""File readers: every kind of file, and the errors for broken ones."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from support.data_sources import ROWS, failure, lines, load, write
from support.tiny import pairs

from orpo_cli.data.first_rows import check_first_rows
from orpo_cli.data.sources.files import read_rows
from orpo_cli.data.sources.text_rows import COMPRESSION_TOOLS
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source

TEXTS = [
    {"prompt": f"question {n}", "chosen": f'a "quoted", long\nanswer {n}', "rejected": f"no {n}"} for n in range(7)
]


def table(delimiter: str, values: list[dict[str, str]], path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(values[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(values)
    return path


def arrow_stream(path: Path) -> Path:
    batch = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch, max_chunksize=3)
    return path


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "x.jsonl": lambda path: write(path, lines(ROWS)),
    "x.jsonl.gz": lambda path: write(path, lines(ROWS)),
    "x.json": lambda path: write(path, json.dumps(ROWS, indent=1)),
    "x.json.gz": lambda path: write(path, json.dumps(ROWS)),
    "x.jsonl.bz2": lambda path: path.write_bytes(PACK[".bz2"](lines(ROWS).encode())),
    "x.JSONL.XZ": lambda path: path.write_bytes(PACK[".xz"](lines(ROWS).encode())),
    "x.json.zst": lambda path: path.write_bytes(PACK[".zst"](json.dumps(ROWS).encode())),
    "lines.json": lambda path: write(path, lines(ROWS)),
    "object.json": lambda path: write(path, json.dumps({"version": 1, "data": ROWS})),
    "indented.json": lambda path: write(path, json.dumps({"version": 1, "data": ROWS}, indent=2)),
    "bom.jsonl": lambda path: write(path, "\ufeff" + lines(ROWS)),
    "x.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "stream.arrow": arrow_stream,
    "file.arrow": lambda path: feather.write_feather(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_numbered_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert load(tmp_path / name) == [(f"{name}:{number}", row) for number, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t")])
def test_csv_keeps_quotes_line_breaks_and_long_cells(name: str, delimiter: str, tmp_path: Path) -> None:
    values = [*TEXTS, {"prompt": "long", "chosen": "x" * 300_000, "rejected": "y"}]
    path = table(delimiter, values, tmp_path / name)
    assert [row for _, row in load(path)] == values
    packed = write(tmp_path / f"{name}.gz", path.read_bytes())
    assert [row for _, row in load(packed)] == values


def test_ragged_json_is_read_unchanged(tmp_path: Path) -> None:
    ragged = [
        {"chosen": "a", "score": 1},
        {"chosen": [{"role": "user", "content": "b"}]},
        {"score": {"x": None}},
        [],
        4,
    ]
    assert [row for _, row in load(write(tmp_path / "x.jsonl", lines(ragged)))] == ragged


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert [name for name, _ in load(path)] == ["x.jsonl:1", "x.jsonl:3"]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    text = lines(pairs(2000)).splitlines(keepends=True)
    text[1233] = text[1233][:40] + "\n"
    error = failure(write(tmp_path / "x.jsonl", "".join(text)))
    assert error.exit_code == 4
    assert str(error).startswith(f"{tmp_path / 'x.jsonl'}:1234: not JSON")
    assert "sed -n 1234p" in str(error.remedy)


def test_a_bad_first_line_is_named(tmp_path: Path) -> None:
    assert "x.jsonl:1: not JSON" in str(failure(write(tmp_path / "x.jsonl", '{"a": \n{"a": 2}\n')))
    assert "x.json:1:9: not JSON" in str(failure(write(tmp_path / "x.json", '[{"a": 1')))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    assert "x.jsonl:2: not UTF-8" in str(failure(write(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n')))
    assert "x.csv: header or row 1: not UTF-8" in str(failure(write(tmp_path / "x.csv", b"a,b\n\xff,1\n")))
    remedy = str(failure(write(tmp_path / "客服 1.csv", "提问,回答".encode("gbk"))).remedy)
    assert "`iconv -f ENCODING -t UTF-8 '客服 1.csv' > 'utf8-客服 1.csv'`, such as -f GBK" in remedy


@pytest.mark.parametrize("suffix", PACK)
def test_a_truncated_or_damaged_compressed_file_is_named(suffix: str, tmp_path: Path) -> None:
    packed = PACK[suffix](lines(pairs(500)).encode())
    path = tmp_path / f"x.jsonl{suffix}"
    for content in (packed[:10], packed[:-20], lines(ROWS).encode()):
        path.write_bytes(content)
        error = failure(path)
        assert error.exit_code == 4
        assert f"{path}: the {COMPRESSION_TOOLS[suffix]} file is truncated or damaged after row " in str(error)
        assert f"`{COMPRESSION_TOOLS[suffix]} -t`" in str(error.remedy)


def test_a_csv_row_with_a_wrong_number_of_fields_is_named(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.csv", 'prompt,chosen\n"a\nb",c\nd,e,f\n'))
    assert "x.csv: row 2 (ends on line 4) has 3 fields where the header has 2" in str(error)
    assert "x.csv: cannot be read after row 1" in str(failure(write(tmp_path / "x.csv", 'a,b\n1,2\n"3,4\n')))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_with_another_delimiter_is_read(delimiter: str, tmp_path: Path) -> None:
    written = table(delimiter, [{**row, "prompt": "one, two"} for row in TEXTS], tmp_path / "x.csv")
    assert [row for _, row in load(written)] == [{**row, "prompt": "one, two"} for row in TEXTS]


def test_a_duplicate_column_name_is_an_error(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.csv", "prompt,chosen,chosen\na,b,c\n"))
    assert "x.csv: the header names chosen more than once" in str(error)


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"])
def test_a_line_that_is_nested_too_deeply_is_named(value: str, tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.jsonl", lines(ROWS[:2]) + value + "\n"))
    assert "x.jsonl: cannot be read after row 2: its JSON is nested too deeply" in str(error)
    assert error.exit_code == 4


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_an_empty_binary_file_is_named(name: str, tmp_path: Path) -> None:
    error = failure(write(tmp_path / name, b""))
    assert f"{tmp_path / name}: cannot be read after row 0" in str(error)
    assert error.remedy


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_broken_binary_file_is_named(name: str, tmp_path: Path) -> None:
    error = failure(write(tmp_path / name, b"this is not it, whatever its name says" * 10))
    assert error.exit_code == 4
    assert f"{tmp_path / name}: cannot be read after row 0" in str(error)


def test_a_single_json_object_is_an_error(tmp_path: Path) -> None:
    assert "one JSON object, not rows" in str(
        failure(write(tmp_path / "x.json", json.dumps({"a": 1, "b": 2}, indent=1)))
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    path.chmod(0)
    assert "Permission denied" in str(failure(path))


def test_rows_are_read_lazily(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS) + "not json\n")
    reading = read_rows(path)
    assert next(reading) == (1, ROWS[0])
    with pytest.raises(DataError, match=r"x\.jsonl:8"):
        list(reading)


def test_the_first_rows_of_a_file_are_checked_whatever_its_name(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x [v1].jsonl"):
        path = write(tmp_path / name, '{"a": 1}\n')
        with pytest.raises(DataError, match="no row looks like preference data"):
            check_first_rows(Source(path=str(path)))
