"""Hub status: one fast check whether the hub is reachable, because its client would retry for 30 seconds."""

from __future__ import annotations

import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

TIMEOUT_SECONDS = 5.0


@cache
def hub_reachable() -> bool:
    """Whether a connection to the hub (``HF_ENDPOINT``) opens. True behind a proxy, False in offline mode, without a check."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if endpoint.scheme in getproxies():
        return True
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True
