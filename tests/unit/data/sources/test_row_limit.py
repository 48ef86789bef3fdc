"""Row limit: rows that are too large end with a message that names the row, in bounded memory."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import feather, parquet
from support.data_sources import ROWS, failure, lines, load, write

from orpo_cli.data.sources.files import read_rows
from orpo_cli.errors import UsageError

LARGE = "x" * 50_000
LARGE_ROWS = [*({"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(3)),
              {"prompt": "p", "chosen": LARGE, "rejected": "b"}]  # fmt: skip


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(LARGE_ROWS[0]))
        writer.writeheader()
        writer.writerows(LARGE_ROWS)


def write_shared(path: Path) -> None:
    """The column with the large value is a dictionary, which all rows share."""
    table = pa.Table.from_pylist(LARGE_ROWS)
    feather.write_feather(table.set_column(1, "chosen", table.column("chosen").dictionary_encode()), path)


WRITERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "x.jsonl": (lambda path: write(path, lines(LARGE_ROWS)), ":4: the line is"),
    "x.jsonl.gz": (lambda path: write(path, lines(LARGE_ROWS)), ":4: the line is"),
    "x.json": (lambda path: write(path, json.dumps(LARGE_ROWS)), ": row 4: the row is"),
    "indented.json": (lambda path: write(path, json.dumps(LARGE_ROWS, indent=1)), ": row 4: the row is"),
    "x.csv": (write_csv, ": row 4: the row, perhaps with a quote that is not closed, is"),
    "x.parquet": (lambda path: parquet.write_table(pa.Table.from_pylist(LARGE_ROWS), path), ": row 4: the row is"),
    "x.arrow": (lambda path: feather.write_feather(pa.Table.from_pylist(LARGE_ROWS), path), ": row 4: the row is"),
    "shared.arrow": (write_shared, ": row 4: the row is"),
    "saved": (lambda path: Dataset.from_list(LARGE_ROWS).save_to_disk(path), ": split train: row 4: the row is"),
    "dict": (lambda path: DatasetDict({"train": Dataset.from_list(LARGE_ROWS)}).save_to_disk(path), ": split train: row 4: the row is"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_over_the_limit_is_named_with_the_way_to_raise_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, where = WRITERS[name]
    writer(tmp_path / name)
    assert [row for _, row in load(tmp_path / name)] == LARGE_ROWS
    monkeypatch.setenv("ORPO_MAX_ROW_SIZE", "20KB")
    error = failure(tmp_path / name)
    assert error.exit_code == 4
    assert str(error) == f"{tmp_path / name}{where} larger than 20KB, the limit of a row."
    assert "ORPO_MAX_ROW_SIZE=" in str(error.remedy)


def test_an_object_around_the_rows_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.json", json.dumps({"version": 1, "data": LARGE_ROWS * 10}))
    assert len(load(path)) == 40
    monkeypatch.setenv("ORPO_MAX_ROW_SIZE", "20KB")
    error = failure(path)
    assert "larger than 16 times 20KB" in str(error)
    assert "JSON Lines" in str(error.remedy)


def test_an_invalid_limit_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_MAX_ROW_SIZE", "much")
    with pytest.raises(UsageError, match="ORPO_MAX_ROW_SIZE much: not a size"):
        list(read_rows(write(tmp_path / "x.jsonl", lines(ROWS))))


def test_an_array_is_read_in_chunks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orpo_cli.data.sources import text_rows

    values = [*ROWS, 12345, -1.5e-7, True, None, 'a\\" é \u2028 \U0001f600', [], {}, [[{"a": []}]]]
    for chars in (1, 2, 3, 7, 64, 1 << 20):
        monkeypatch.setattr(text_rows, "CHUNK_CHARS", chars)
        for text in (json.dumps(values), json.dumps(values, indent=2), json.dumps(values, ensure_ascii=False) + "\n"):
            assert [row for _, row in read_rows(write(tmp_path / "x.json", text))] == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', ":1:10: not JSON: Expecting ',' delimiter"),
        ('[{"a": 1} {"a": 2}]', ":1:11: not JSON: Expecting ',' delimiter"),
        ('[{"a": 1},]', ":1:11: not JSON: Expecting value"),
        ('[{"a": 1}\n]\n[2]', ":3:1: not JSON: Extra data"),
        ('[\n {"a": 1},\n {"a" 2}\n]', ":3:7: not JSON: Expecting ':' delimiter"),
        ("[" * 100_000, ":1:2: not JSON: nested too deeply"),
        ("[" + "9" * 10_000 + "]", ":1:2: not JSON: Exceeds the limit"),
    ],
)
@pytest.mark.parametrize("chars", [1, 1 << 20])
def test_the_position_of_an_error_in_an_array_is_named(
    chars: int, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orpo_cli.data.sources import text_rows

    monkeypatch.setattr(text_rows, "CHUNK_CHARS", max(chars, 1))
    assert f"x.json{message}" in str(failure(write(tmp_path / "x.json", text)))


def long_line_gz(path: Path) -> None:
    head, repeated = b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "', b"x" * (1 << 22)
    path.write_bytes(gzip.compress(head) + gzip.compress(repeated) * 256)


def long_line_xz(path: Path) -> None:
    path.write_bytes(lzma.compress(b'{"prompt": "p"}\n{"prompt": "') + lzma.compress(b"x" * (1 << 22)) * 256)


def long_element_zst(path: Path) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(b'[{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "')
        for _ in range(256):
            file.write(b"x" * (1 << 22))


def open_quote_gz(path: Path) -> None:
    lines_of_text = b"a line of text, with commas\n" * 150_000
    path.write_bytes(gzip.compress(b'prompt,chosen,rejected\np,"a,b\n') + gzip.compress(lines_of_text) * 256)


def parquet_bomb(path: Path) -> None:
    """One value of 20 MB, stored once, in 3,000 rows: 60 GB."""
    chosen = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * (20 << 20)]))
    rest = ["b"] * 3000
    parquet.write_table(pa.table({"prompt": rest, "chosen": chosen, "rejected": rest}), path, compression="zstd")


READ = """
import re, sys
from pathlib import Path
from typing import Any
from orpo_cli.data.sources.files import read_rows
from orpo_cli.errors import DataError
try:
    list(read_rows(Path(sys.argv[1])))
except DataError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.parametrize(
    ("name", "writer", "where", "most_mb"),
    [
        ("x.jsonl.gz", long_line_gz, ":2: the line is", 150),
        ("x.jsonl.xz", long_line_xz, ":2: the line is", 150),
        ("x.json.zst", long_element_zst, ": row 2: the row is", 250),
        ("x.csv.gz", open_quote_gz, ": row 1: the row, perhaps with a quote that is not closed, is", 250),
        ("x.parquet", parquet_bomb, ": row 1: the row is", 3500),
    ],
)
def test_a_bomb_is_refused_in_bounded_memory(
    name: str, writer: Callable[[Path], None], where: str, most_mb: int, tmp_path: Path
) -> None:
    """A gigabyte or more from a file of a few MB at most."""
    path = tmp_path / name
    writer(path)
    assert path.stat().st_size < 12 << 20
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, cwd=Path(__file__).parents[4]
    )
    message, peak_mb = done.stdout.splitlines()
    assert message == f"{path}{where} larger than 16MiB, the limit of a row."
    assert int(peak_mb) < most_mb


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.jsonl", LFS.encode(), "a git-lfs pointer"),
        ("x.parquet", LFS.encode(), "a git-lfs pointer"),
        ("x.csv", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page (HTML)"),
        ("x.arrow", b"\n<html>", "a web page (HTML)"),
        ("x.json", b"<!-- login -->\n<div>Sign in</div>", "a web page (HTML)"),
        ("x.jsonl", b"x" * 257 + b"ustar\x0000", "a tar archive"),
        ("x.jsonl", gzip.compress(b'{"a": 1}', mtime=0), "a gzip file"),
        ("x.csv", bz2.compress(b"a,b"), "a bzip2 file"),
        ("x.json", lzma.compress(b"[]"), "an xz file"),
        ("x.jsonl", b"PK\x03\x04" + bytes(40), "a zip archive"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16 text"),
        ("x.jsonl", b"\x80\x04\x95" + bytes(20), "a Python pickle"),
        ("x.parquet", bytes(5000), "filled with zero bytes"),
        ("x.parquet", b"", "empty"),
        ("x.csv", b"PAR1" + bytes(60), "a Parquet file"),
    ],
)
def test_a_file_of_another_kind_is_said_to_be_it(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = failure(path)
    assert str(error).startswith(f"{path}: cannot be read after row 0: the file is {kind}")
    assert error.exit_code == 4
    assert error.remedy


@pytest.mark.parametrize(
    ("name", "compress", "tool"), [("x.jsonl.gz", gzip.compress, "gzip"), ("x.csv.bz2", bz2.compress, "bzip2"), ("x.json.xz", lzma.compress, "xz")]
)  # fmt: skip
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"x" * 257 + b"ustar\x0000", "a tar archive"),
        (LFS.encode(), "a git-lfs pointer"),
        (b"<html></html>", "a web page"),
        (gzip.compress(b"{}", mtime=0), "a gzip file"),
    ],
)
def test_a_compressed_file_of_another_kind_is_said_to_be_it(
    name: str, compress: Any, tool: str, content: bytes, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(content))
    error = failure(path)
    assert str(error).startswith(f"{path}: cannot be read after row 0: the {tool} file contains {kind}")
    assert error.exit_code == 4
    assert error.remedy
    if kind == "a gzip file":  # another suffix would not help
        assert error.remedy == "Decompress it with `gzip -dc FILE > NEW`."


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    error = failure(tmp_path / "x.jsonl")
    assert str(error) == f"{tmp_path / 'x.jsonl'}: a pipe, not a file."
    assert error.exit_code == 4


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "y.jsonl")
    (tmp_path / "y.jsonl").symlink_to(tmp_path / "x.jsonl")
    assert "Too many levels of symbolic links" in str(failure(tmp_path / "x.jsonl"))
