"""The loopback server is silent about a client that has gone, and prints every other error of a handler."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from support.loopback_server import LoopbackServer


@pytest.mark.parametrize(("error", "printed"), [(BrokenPipeError, False), (ZeroDivisionError, True)])
def test_only_the_error_of_a_client_that_has_gone_is_silent(
    capfd: pytest.CaptureFixture[str], error: type[Exception], printed: bool
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            raise error

    with LoopbackServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(server.server_address[:2], timeout=10) as client:
            client.recv(1)  # ends when the server has handled the error and closes the connection
        thread.join(10)
    assert ("Traceback" in capfd.readouterr().err) is printed
