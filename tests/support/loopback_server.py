"""HTTP server on the loopback interface that does not print the traceback of a client that has gone.

A thread of the server may print it while the next test runs, and that test would read it as output of its own command.
"""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
