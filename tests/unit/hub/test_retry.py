"""Retry policy: the wait that the hub asks for, and the limit from the environment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.hub.retry import RetryPolicy, requested_wait_seconds


def test_the_requested_wait_is_read_from_every_header_format():
    assert requested_wait_seconds({}) is None
    assert requested_wait_seconds({"Retry-After": "7"}) == 7
    assert requested_wait_seconds({"Retry-After": "soon"}) is None
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert requested_wait_seconds({"Retry-After": in_a_minute}) == pytest.approx(60, abs=5)
    assert requested_wait_seconds({"ratelimit": '"api";r=0;t=55'}) == 55
    assert requested_wait_seconds({"ratelimit": '"api";r=3;t=55'}) is None


def test_a_limit_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setenv("ORPO_HUB_PATIENCE", "long")
    with pytest.raises(UsageError, match="ORPO_HUB_PATIENCE=long"):
        RetryPolicy(print)
