"""What the hub says of a token decides, before anything is sent, whether a push can end well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.loopback_hub import account

from orpo_cli.errors import UsageError
from orpo_cli.hub.preflight import missing_permission
from orpo_cli.hub.retry import RetryPolicy, requested_wait_seconds

WRITE_TO_ME = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.write"]}
READ_ME = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}
WRITE_ONE = {"entity": {"type": "model", "name": "me/tiny"}, "permissions": ["repo.write"]}
TALK = {"entity": {"type": "org", "name": "we"}, "permissions": ["discussion.write"]}


def reason(who, repo_id="me/tiny", *, create_pr=False, new=False):
    found = missing_permission(who, repo_id, create_pr=create_pr, is_new=new)
    return None if found is None else " ".join(found)


@pytest.mark.parametrize(
    "who",
    [
        None,
        {},
        {"name": "me"},
        account("me"),
        account("Me"),
        account("you", organizations={"me": "write"}),
        account("you", organizations={"me": "contributor"}),
        account("me", "fineGrained", scoped=[READ_ME, WRITE_TO_ME]),
        account("me", "fineGrained", scoped=[WRITE_ONE]),
    ],
)
def test_who_may_write_is_let_through(who):
    assert reason(who) is None


@pytest.mark.parametrize(
    ("who", "word"),
    [
        (account("me", "read"), "write role"),
        (account("you"), "Yours are: you"),
        (account("you", organizations={"we": "admin"}), "Yours are: you, we"),
        (account("you", organizations={"me": "read"}), "--create-pr"),
        (account("me", "fineGrained", scoped=[READ_ME]), "no write permission"),
        (account("me", "fineGrained", scoped=[]), "no write permission"),
    ],
)
def test_who_may_not_write_is_told_why_and_what_to_do(who, word):
    assert word in str(reason(who))


def test_a_token_for_one_repository_makes_no_other():
    one = account("me", "fineGrained", scoped=[WRITE_ONE])
    assert reason(one) is None
    assert "namespace" in str(reason(one, new=True))
    assert reason(one, "me/other") is not None


def test_a_pull_request_needs_less():
    assert reason(account("you"), "we/model", create_pr=True) is None
    talker = account("you", "fineGrained", scoped=[TALK])
    assert reason(talker, "we/model", create_pr=True) is None
    assert reason(talker, "we/model") is not None
    assert reason(account("you", "read"), "we/model", create_pr=True) is not None


def test_the_wait_that_is_asked_for_is_read_in_every_form():
    assert requested_wait_seconds({}) is None
    assert requested_wait_seconds({"Retry-After": "7"}) == 7
    assert requested_wait_seconds({"Retry-After": "soon"}) is None
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert requested_wait_seconds({"Retry-After": in_a_minute}) == pytest.approx(60, abs=5)
    assert requested_wait_seconds({"ratelimit": '"api";r=0;t=55'}) == 55
    assert requested_wait_seconds({"ratelimit": '"api";r=3;t=55'}) is None


def test_patience_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("ORPO_HUB_PATIENCE", "long")
    with pytest.raises(UsageError, match="ORPO_HUB_PATIENCE=long"):
        RetryPolicy(print)
