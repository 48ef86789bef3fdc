"""Reading files: every kind, and what is said of a broken one."""

from __future__ import annotations

import csv
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import feather, parquet
from support.tiny import pairs

from orpo_cli.data.sources.files import read_rows
from orpo_cli.data.sources.sample import sample_rows
from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import DataError, OrpoError, UsageError
from orpo_cli.recipe.schema import Source

ROWS = pairs(7)
TEXTS = [
    {"prompt": f"question {n}", "chosen": f'a "quoted", long\nanswer {n}', "rejected": f"no {n}"} for n in range(7)
]


def load(path: Path | str, **options: Any) -> list[tuple[str, Any]]:
    source = Source(path=str(path), **options)
    with open_source(source, Path(path).name, lambda _: None) as found:
        return [tuple(row) for row in sample_rows(found, source, seed=3).rows]  # type: ignore[misc]


def failure(path: Path | str, **options: Any) -> OrpoError:
    with pytest.raises(OrpoError) as caught:
        load(path, **options)
    return caught.value


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


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


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.jsonl": lambda path: write(path, lines(ROWS)),
    "x.jsonl.gz": lambda path: write(path, lines(ROWS)),
    "x.json": lambda path: write(path, json.dumps(ROWS, indent=1)),
    "x.json.gz": lambda path: write(path, json.dumps(ROWS)),
    "lines.json": lambda path: write(path, lines(ROWS)),
    "object.json": lambda path: write(path, json.dumps({"version": 1, "data": ROWS})),
    "indented.json": lambda path: write(path, json.dumps({"version": 1, "data": ROWS}, indent=2)),
    "bom.jsonl": lambda path: write(path, "\ufeff" + lines(ROWS)),
    "x.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "stream.arrow": arrow_stream,
    "file.arrow": lambda path: feather.write_feather(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows_with_their_numbers(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert load(tmp_path / name) == [(f"{name}:{number}", row) for number, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t")])
def test_tables_keep_quotes_line_breaks_and_long_cells(name: str, delimiter: str, tmp_path: Path) -> None:
    values = [*TEXTS, {"prompt": "long", "chosen": "x" * 300_000, "rejected": "y"}]
    path = table(delimiter, values, tmp_path / name)
    assert [row for _, row in load(path)] == values
    packed = write(tmp_path / f"{name}.gz", path.read_bytes())
    assert [row for _, row in load(packed)] == values


def test_ragged_json_is_read_as_it_is(tmp_path: Path) -> None:
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


def test_the_first_line_may_be_the_bad_one(tmp_path: Path) -> None:
    assert "x.jsonl:1: not JSON" in str(failure(write(tmp_path / "x.jsonl", '{"a": \n{"a": 2}\n')))
    assert "x.json:1:9: not JSON" in str(failure(write(tmp_path / "x.json", '[{"a": 1')))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    assert "x.jsonl:2: not UTF-8" in str(failure(write(tmp_path / "x.jsonl", b'{"a": 1}\n{"a": "\xff"}\n')))
    assert "x.csv: row 1: not UTF-8" in str(failure(write(tmp_path / "x.csv", b"a,b\n\xff,1\n")))


@pytest.mark.parametrize("keep", [10, -20])
def test_a_gz_that_is_cut_short_or_no_gz_is_named(keep: int, tmp_path: Path) -> None:
    packed = gzip.compress(lines(pairs(500)).encode())
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(packed[:keep])
    error = failure(path)
    assert error.exit_code == 4
    assert str(path) in str(error)
    assert "truncated" in str(error)
    path.write_text(lines(ROWS))
    assert "truncated or damaged after row 0: Not a gzipped file" in str(failure(path))


def test_a_table_row_with_another_number_of_fields_is_named(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.csv", 'prompt,chosen\n"a\nb",c\nd,e,f\n'))
    assert "x.csv: row 2 (ends on line 4) has 3 fields where the header has 2" in str(error)
    assert "x.csv: cannot be read after row 1" in str(failure(write(tmp_path / "x.csv", 'a,b\n1,2\n"3,4\n')))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_with_another_delimiter_is_read(delimiter: str, tmp_path: Path) -> None:
    written = table(delimiter, [{**row, "prompt": "one, two"} for row in TEXTS], tmp_path / "x.csv")
    assert [row for _, row in load(written)] == [{**row, "prompt": "one, two"} for row in TEXTS]


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
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


def test_one_json_object_is_no_rows(tmp_path: Path) -> None:
    assert "one JSON object, not rows" in str(
        failure(write(tmp_path / "x.json", json.dumps({"a": 1, "b": 2}, indent=1)))
    )


@pytest.mark.parametrize(
    "path",
    [
        "./none",
        "../none",
        "~/none-of-this",
        "none.jsonl",
        "none.csv.gz",
        "a/b/c",
        "none",
        "json",
        "x.txt",
        "a\\b.jsonl",
    ],
)
def test_what_looks_local_is_never_sent_to_the_hub(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = failure(path)
    assert isinstance(error, DataError)
    assert str(Path(path).expanduser().absolute()) in str(error)
    assert "no such file" in str(error)


def test_an_existing_folder_goes_before_a_hub_id_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    write(tmp_path / "org" / "name" / "x.jsonl", lines(ROWS))
    assert [row for _, row in load("org/name")] == ROWS


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "Known: .json" in str(failure(write(tmp_path / "x.txt", "hello")).remedy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    path.chmod(0)
    assert "Permission denied" in str(failure(path))


def test_hub_options_on_a_local_path_are_refused(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.jsonl", lines(ROWS)), revision="main")
    assert isinstance(error, UsageError)
    assert "revision would do nothing" in str(error)


def test_a_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train-0.jsonl", lines(ROWS[:2]))
    write(folder / "train-1.jsonl.gz", lines(ROWS[2:5]))
    write(folder / "test.json", json.dumps(ROWS[5:]))
    write(folder / "README.md", "not data")
    assert load(folder) == [
        ("data/train-0.jsonl:1", ROWS[0]), ("data/train-0.jsonl:2", ROWS[1]), ("data/train-1.jsonl.gz:1", ROWS[2]),
        ("data/train-1.jsonl.gz:2", ROWS[3]), ("data/train-1.jsonl.gz:3", ROWS[4]),
    ]  # fmt: skip
    assert [row for _, row in load(folder, split="test")] == ROWS[5:]
    assert [row for _, row in load(folder, split="train[:1]+test[1:]")] == [ROWS[0], ROWS[6]]
    assert "no split dev; it has train, test" in str(failure(folder, split="dev"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "contains no data file" in str(failure(empty))


def test_a_saved_dataset_is_read_with_its_splits(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load(tmp_path / "one") == [(f"one:{number}", row) for number, row in enumerate(ROWS, 1)]
    DatasetDict({"train": Dataset.from_list(ROWS[:4]), "test": Dataset.from_list(ROWS[4:])}).save_to_disk(
        tmp_path / "two"
    )
    assert [row for _, row in load(tmp_path / "two", split="test")] == ROWS[4:]


@pytest.mark.parametrize(
    ("split", "kept"),
    [("train[:3]", [0, 1, 2]), ("train[-2:]", [5, 6]), ("train[50%:]", [4, 5, 6]), ("train[2:4]", [2, 3])],
)
def test_slices_of_a_file(split: str, kept: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    assert load(path, split=split) == [(f"x.jsonl:{index + 1}", ROWS[index]) for index in kept]


def test_a_slice_or_split_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    assert "no split test; it has train" in str(failure(path, split="test"))
    assert "cannot be read" in str(failure(path, split="train[a:b]"))


def test_max_samples_draws_the_same_rows_again_and_keeps_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(pairs(200)))
    first = load(path, max_samples=20)
    assert first == load(path, max_samples=20)
    numbers = [int(name.split(":")[1]) for name, _ in first]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 20
    assert numbers != list(range(1, 21))
    source = Source(path=str(path), max_samples=20)
    with open_source(source, "x", lambda _: None) as found:
        assert [row.name for row in sample_rows(found, source, seed=4).rows] != [name for name, _ in first]
        assert sample_rows(found, source, seed=4).available == 200
    assert len(load(path, max_samples=500)) == 200
    assert all(int(name.split(":")[1]) > 100 for name, _ in load(path, max_samples=20, split="train[100:]"))


def test_the_fingerprint_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path / "x.jsonl", lines(ROWS))
    with open_source(Source(path=str(path)), "x", lambda _: None) as found:
        assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.location == str(path)


class QuietFileHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url_is_downloaded_and_errors_name_it(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl.gz", lines(ROWS))
    write(tmp_path / "bad.jsonl", "{}\n{\n")
    with serve(partial(QuietFileHandler, directory=str(tmp_path))) as address:
        assert f"{address}/bad.jsonl:2: not JSON" in str(failure(f"{address}/bad.jsonl"))
        assert load(f"{address}/x.jsonl.gz?download=true") == [
            (f"x.jsonl.gz?download=true:{n}", r) for n, r in enumerate(ROWS, 1)
        ]
        assert "answered 404" in str(failure(f"{address}/y.jsonl"))
        assert "not a supported kind of data file" in str(failure(f"{address}/page"))
    gone = failure(f"{address}/x.jsonl.gz")
    assert gone.exit_code == 4
    assert "cannot be downloaded" in str(gone)


def test_a_download_that_ends_early_is_an_error() -> None:
    class CutShort(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = lines(ROWS).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 10))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with serve(CutShort) as address:
        error = failure(f"{address}/x.jsonl")
    assert f"{address}/x.jsonl: cannot be downloaded: the server closed the connection 10 bytes before" in error.message


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS) + "not json\n")
    reading = read_rows(path)
    assert next(reading) == (1, ROWS[0])
    with pytest.raises(DataError, match=r"x\.jsonl:8"):
        list(reading)
