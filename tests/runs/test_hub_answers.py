"""Answers of the hub to downloads: exit code 7 for a refusal, 6 for a hub that is busy or cannot be reached, for models and data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.loopback_hub import LoopbackHub

from orpo_cli import hub_status
from orpo_cli.data.sources.hub import open_hub_dataset
from orpo_cli.errors import OrpoError
from orpo_cli.evaluation.eval_target import open_eval_target
from orpo_cli.recipe.schema import Source


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub server that this process downloads from, with an empty cache."""
    import datasets

    with LoopbackHub() as hub:
        for name, value in hub.environment().items():
            monkeypatch.setenv(name, value)
        files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        changes = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": files, "HF_HUB_OFFLINE": False}
        changes["HF_HUB_CACHE"] = str(tmp_path / "hub")
        for name, value in changes.items():
            monkeypatch.setattr(constants, name, value)
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(datasets.config, name, value)
        hub_status.hub_reachable.cache_clear()
        yield hub
    hub_status.hub_reachable.cache_clear()


def slow(*values: object) -> object:
    """A case for which the client of the hub waits and tries again."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("status", "headers", "word", "exit_code"),
    [
        (401, {}, "refused", 7),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refused", 7),
        (403, {}, "refused", 7),
        (403, {"X-Error-Code": "GatedRepo"}, "gated", 7),
        (404, {"X-Error-Code": "RepoNotFound"}, "on the hub", 7),
        (None, {}, "could not be reached", 6),
        slow(429, {}, "busy", 6),
        slow(503, {}, "busy", 6),
    ],
)
def test_a_refused_download_exits_7_and_a_busy_hub_6(hub, status, headers, word, exit_code):
    for method in ("GET", "HEAD"):
        hub.fail(method, ".", status=status, headers=headers, times=None)
    with pytest.raises(OrpoError) as raised:
        open_eval_target("me/model", chat_template=None, note=print)
    assert (raised.value.exit_code, word in str(raised.value)) == (exit_code, True), raised.value
    with pytest.raises(OrpoError) as raised:
        open_hub_dataset(Source(path="me/data"), print)
    assert raised.value.exit_code == exit_code, raised.value
    assert "\n" not in str(raised.value)
