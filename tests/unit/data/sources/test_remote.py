"""Downloads over http, from a local server, and from file systems of fsspec."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import Dataset
from support.data_sources import ROWS, failure, lines, load, write
from support.loopback_server import LoopbackServer

from orpo_cli.data.sources.remote import _targets
from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import DataError
from orpo_cli.recipe.schema import Source


class QuietFileHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve(handler: Any) -> Iterator[str]:
    server = LoopbackServer(("127.0.0.1", 0), handler)
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


def test_errors_of_an_archive_name_it(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    url = f"zip://x.jsonl::{archive}"
    for content, message in ((None, "no such file"), (b"no archive", "cannot be opened: File is not a zip file")):
        if content is not None:
            archive.write_bytes(content)
        error = failure(url)
        assert error.exit_code == 4
        assert str(error).startswith(f"{url}: {message}")
        assert error.remedy
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.jsonl", lines(ROWS))
    assert [row for _, row in load(url)] == ROWS
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"capital", b"Capital").replace(b"It is 2", b"It is 9"))
    assert "cannot be downloaded: Bad CRC-32" in str(failure(url))


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    """A zip bomb by its own directory: 4,000 files of 4 GB."""
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(4000):
            file.writestr(f"{number}.jsonl", "{}")
    content = re.sub(
        rb"(PK\x01\x02.{20}).{4}",
        lambda found: found[1] + (2**32 - 2).to_bytes(4, "little"),
        archive.read_bytes(),
        flags=re.S,
    )
    archive.write_bytes(content)
    error = failure(f"zip://*.jsonl::{archive}")
    assert error.exit_code == 3
    assert "do not fit on the disk" in str(error)
    assert "TMPDIR" in str(error.remedy)


def test_a_remote_folder_is_read_as_a_local_one(tmp_path: Path) -> None:
    """Splits by name, dataset cards and saved datasets; before, all files of the folder were one split."""
    Dataset.from_list(ROWS[:3]).save_to_disk(tmp_path / "saved")
    card = "---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files: de/*\n---\n"
    store = fsspec.filesystem("memory")
    for name, text in {
        "plain/train.jsonl": lines(ROWS[:4]),
        "plain/test.jsonl": lines(ROWS[4:]),
        "card/README.md": card,
        "card/en/x.jsonl": lines(ROWS[:2]),
        "card/de/x.jsonl": lines(ROWS[2:]),
        "one/x.jsonl": lines(ROWS),
    }.items():
        store.pipe(f"/remote/{name}", text.encode())
    store.put(str(tmp_path / "saved"), "/remote/saved", recursive=True)
    assert [row for _, row in load("memory://remote/plain")] == ROWS[:4]
    assert [row for _, row in load("memory://remote/plain", split="test")] == ROWS[4:]
    assert load("memory://remote/card", name="de")[0] == ("card/de/x.jsonl:1", ROWS[2])
    assert [row for _, row in load("memory://remote/saved")] == ROWS[:3]
    assert [row for _, row in load("memory://remote/one/x.jsonl")] == ROWS
    unnamed = failure("memory://remote/card")
    assert str(unnamed).startswith("memory://remote/card: its card has the configurations en, de")
    assert failure("memory://remote/plain/tests.jsonl").remedy == "Did you mean test.jsonl?"
    assert failure("memory://remote/none/x.jsonl").remedy == "Check the path."
    assert "name would do nothing" in str(failure("memory://remote/one/x.jsonl", name="de"))
    assert "memory://remote/plain: no dataset card" in str(failure("memory://remote/plain", name="de"))
    said: list[str] = []
    store.pipe("/remote/plain/extra.jsonl", b"")
    with open_source(Source(path="memory://remote/plain"), "plain", said.append):
        assert said[-1] == "memory://remote/plain: not read, since the name of no split is in their path: extra.jsonl"


def test_a_file_outside_of_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("a/train.jsonl", lines(ROWS))
    assert [row for _, row in load(f"zip://::{tmp_path / 'x.zip'}")] == ROWS
    with pytest.raises(DataError, match="is outside of it"):
        _targets("zip://x", ["a/../../x.jsonl", "a/y.jsonl"], "", tmp_path)
