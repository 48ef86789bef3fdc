"""Downloads over http, from a local server."""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.data_sources import ROWS, failure, lines, load, write


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
