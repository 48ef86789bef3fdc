"""Pre-upload checks: the permission of a token, from the response of the hub to whoami."""

from __future__ import annotations

import pytest
from support.loopback_hub import account

from orpo_cli.hub.preflight import missing_permission

WRITE_TO_ME = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.write"]}
READ_ME = {"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}
WRITE_ONE = {"entity": {"type": "model", "name": "me/tiny"}, "permissions": ["repo.write"]}
TALK = {"entity": {"type": "org", "name": "we"}, "permissions": ["discussion.write"]}


def reason(account, repo_id="me/tiny", *, create_pr=False, new=False):
    found = missing_permission(account, repo_id, create_pr=create_pr, is_new=new)
    return None if found is None else " ".join(found)


@pytest.mark.parametrize(
    "token",
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
def test_a_token_with_write_permission_is_accepted(token):
    assert reason(token) is None


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (account("me", "read"), "write role"),
        (account("you"), "Yours are: you"),
        (account("you", organizations={"we": "admin"}), "Yours are: you, we"),
        (account("you", organizations={"me": "read"}), "--create-pr"),
        (account("me", "fineGrained", scoped=[READ_ME]), "no write permission"),
        (account("me", "fineGrained", scoped=[]), "no write permission"),
    ],
)
def test_a_missing_permission_has_a_reason_and_a_remedy(token, word):
    assert word in str(reason(token))


def test_a_token_for_one_repository_cannot_create_another():
    one = account("me", "fineGrained", scoped=[WRITE_ONE])
    assert reason(one) is None
    assert "namespace" in str(reason(one, new=True))
    assert reason(one, "me/other") is not None


def test_a_pull_request_needs_fewer_permissions():
    assert reason(account("you"), "we/model", create_pr=True) is None
    talker = account("you", "fineGrained", scoped=[TALK])
    assert reason(talker, "we/model", create_pr=True) is None
    assert reason(talker, "we/model") is not None
    assert reason(account("you", "read"), "we/model", create_pr=True) is not None
