"""Downloads over http, from a local server."""

from __future__ import annotations

import threading
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
