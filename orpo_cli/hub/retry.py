"""Retry policy for hub requests, and the hub client that follows it.

huggingface_hub retries most of its requests, but not those that create a commit or a repository. It also waits as long as the
hub asks, and without a limit for a response. Here one limit applies to all retries and waits together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from orpo_cli.errors import HubError, HubRefused, UsageError
from orpo_cli.hub.hub_errors import REPEAT_TO_CONTINUE
from orpo_cli.hub_status import hub_reachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

MAX_SECONDS_VARIABLE = "ORPO_HUB_PATIENCE"
DEFAULT_MAX_SECONDS = 300.0  # the rate limits of the hub apply to five minutes
TIMEOUT_SECONDS = 120.0  # between two bytes of a response
MAX_ATTEMPTS = 6
MAX_PAUSE_SECONDS = 8.0
BUSY_STATUS_CODES = {408, 429, 500, 502, 503, 504}
CONFLICT_STATUS_CODES = {409, 412}  # another commit came first: a retry reads the branch again


class RetryPolicy:
    """Retries with exponential backoff. ``max_seconds`` limits one retried call, and all waits that the hub asks for."""

    def __init__(self, note: Callable[[str], None], max_seconds: float | None = None) -> None:
        self.note = note
        self.max_seconds = _max_seconds_from_environment() if max_seconds is None else max_seconds
        self.requested_wait = 0.0  # seconds, of all responses together

    def set_timeout(self, request: Any) -> None:
        """Request hook of the HTTP client: set a timeout, because some calls of huggingface_hub set none."""
        seconds = min(TIMEOUT_SECONDS, max(1.0, self.max_seconds))
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)

    def check_requested_wait(self, response: Any) -> None:
        """Response hook of the HTTP client: raise HubError if the hub asks for longer waits than the limit."""
        wait = requested_wait_seconds(response.headers) if response.status_code in BUSY_STATUS_CODES else None
        if wait is None:
            return
        self.requested_wait += wait
        if self.requested_wait > self.max_seconds:
            raise HubError(
                f"the hub is busy (HTTP {response.status_code}) and asks to wait {wait:.0f} seconds.",
                remedy=f"Wait {wait:.0f} seconds, then try again, or set {MAX_SECONDS_VARIABLE} above {self.max_seconds:.0f} seconds. "
                f"{REPEAT_TO_CONTINUE}",
            )

    def call(self, action: str, function: Callable[[], T]) -> T:
        """The result of ``function``, retried while the hub is busy; raises its last error at the limit."""
        start, pause = time.monotonic(), 1.0
        for attempt in count(1):
            try:
                return function()
            except Exception as error:
                reason, requested_wait = retry_reason(error)
                wait = pause if requested_wait is None else requested_wait
                is_too_late = time.monotonic() - start + wait > self.max_seconds
                if reason is None or is_too_late or attempt == MAX_ATTEMPTS:
                    raise
            self.note(f"{action}: {reason}; trying again in {wait:.0f} s")
            time.sleep(wait)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        raise AssertionError("unreachable")


def retry_reason(error: BaseException | None) -> tuple[str | None, float | None]:
    """(reason to retry the call that raised ``error``, wait in seconds that the hub asks for); (None, None) for no retry."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in BUSY_STATUS_CODES | CONFLICT_STATUS_CODES:
            reason = "another commit came first" if status in CONFLICT_STATUS_CODES else "the hub is busy"
            return f"{reason} (HTTP {status})", requested_wait_seconds(error.response.headers)
        return None, None
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)) and not isinstance(error, OfflineModeIsEnabled):
        return f"the connection broke ({type(error).__name__})", None
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # around the error of an upload thread
        return retry_reason(error.__cause__)
    return None, None


def requested_wait_seconds(headers: Mapping[str, str]) -> float | None:
    """The wait in seconds from Retry-After (a number or a date) or from the rate limit of the hub; None without one."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    retry_after = headers.get("Retry-After", "").strip()
    if retry_after.isdigit():
        return float(retry_after)
    if retry_after:
        try:
            until = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def connect(retry: RetryPolicy) -> HfApi:
    """A hub client with the token of the user and the timeouts of ``retry``.

    Raises HubRefused without a token, HubError where the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, get_token, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    token = get_token()
    if token is None:
        raise HubRefused("no hub token in HF_TOKEN, and no login.", remedy="Run `hf auth login`, or set HF_TOKEN.")
    if constants.is_offline_mode():
        raise HubError("HF_HUB_OFFLINE disables the hub.", remedy="Unset HF_HUB_OFFLINE.")
    hub_reachable.cache_clear()  # the cached result may be hours old
    if not hub_reachable():
        raise HubError(f"no connection to {constants.ENDPOINT}.", remedy=f"Check the network. {REPEAT_TO_CONTINUE}")

    def make_client() -> Any:
        client = default_client_factory()
        hooks = client.event_hooks["request"]
        client.event_hooks = {"request": [*hooks, retry.set_timeout], "response": [retry.check_requested_wait]}
        return client

    set_client_factory(make_client)
    return HfApi(token=token, library_name="orpo-cli")


def reset_client() -> None:
    """Restore the default HTTP client of huggingface_hub: the limits of a push do not apply to downloads."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    set_client_factory(default_client_factory)


def _max_seconds_from_environment() -> float:
    text = os.environ.get(MAX_SECONDS_VARIABLE, "").strip()
    if not text:
        return DEFAULT_MAX_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(
            f"{MAX_SECONDS_VARIABLE}={text}: not a number of seconds.",
            remedy=f"For example {MAX_SECONDS_VARIABLE}=600.",
        )
    return seconds
