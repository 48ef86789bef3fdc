"""Errors of `from_pretrained`: what the hub answered, also where transformers wraps it in an OSError."""

from __future__ import annotations

import pytest
from httpx2 import Request, Response
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from orpo_cli.errors import HubError
from orpo_cli.model.load_errors import explain_load_errors


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("kind", "status", "exit_code", "message"),
    [
        (GatedRepoError, 403, 7, "is gated"),
        (RepositoryNotFoundError, 404, 7, "is not on the hub"),
        (RevisionNotFoundError, 404, 7, "no such revision"),
        (HfHubHTTPError, 403, 7, "the hub refused"),
        (HfHubHTTPError, 429, 6, "the hub is busy"),
        (HfHubHTTPError, 503, 6, "the hub is busy or has a problem"),
    ],
)
def test_a_response_of_the_hub_has_its_exit_code(kind, status, exit_code, message, wrapped):
    response = Response(status, request=Request("GET", "https://example.org"))
    error = kind("no", response=response)
    if wrapped:
        outer = OSError("There was a specific connection error")
        outer.__cause__ = error
        error = outer
    with pytest.raises(HubError, match=message) as caught, explain_load_errors("a/b"):
        raise error
    assert caught.value.exit_code == exit_code
    assert caught.value.remedy
