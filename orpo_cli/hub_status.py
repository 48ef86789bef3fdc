"""Hub status: whether the hub is reachable, and the response of the hub behind an error of a library.

The check is fast, because the client of the hub would retry for 30 seconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

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


def response_behind(error: BaseException) -> HfHubHTTPError | None:
    """The error response of the hub that led to ``error``; None without one.

    huggingface_hub, transformers and datasets wrap it, and report a refusal as a lost connection or as a missing file. A response
    that one file does not exist is no error of the hub.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    for each in _chain(error):
        if isinstance(each, HfHubHTTPError) and not isinstance(each, EntryNotFoundError):
            return each
    return None


def lost_connection_behind(error: BaseException) -> bool:
    """Whether a connection that failed or broke led to ``error``."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP client

    return any(isinstance(each, (HTTPError, ConnectionError, TimeoutError)) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
