"""`orpo push-to-hub --check`: the same refusals as a push, of a run and of a recipe before its training; nothing is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.json_lines import write_json_lines
from support.loopback_hub import LoopbackHub, account
from support.push_cli import REPO, make_gated_run, pushed_adapter_config
from support.tiny import pairs

from orpo_cli import hub_status
from orpo_cli.api.run import Run
from orpo_cli.errors import UsageError
from orpo_cli.rundir import RunDir

Check = Callable[..., Any]


@pytest.fixture
def check(hub: LoopbackHub, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Check:
    """``check(RUN_OR_RECIPE, …)``: `orpo push-to-hub … --check --json` in this process; nothing may be sent."""
    for name, value in {**hub.environment(), "ORPO_HUB_PATIENCE": "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")

    def run(name: object, repo: str = REPO, *options: str) -> Any:
        done = orpo_here("push-to-hub", str(name), repo, "--check", "--json", *options)
        assert {method for method, _ in hub.requests} <= {"GET", "HEAD"}
        hub_status.hub_reachable.cache_clear()
        return done

    return run


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Path:
    write_json_lines(tmp_path / "train.jsonl", pairs(4))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model: {{model_name_or_path: {base}}}\nlora: {{r: 2}}\ndataset: {{train: {{path: train.jsonl}}}}\n"
        f"output_dir: {tmp_path / 'to-come'}\n"
    )
    return path


def test_an_accepted_push_is_described_and_leaves_the_run_unchanged(hub, check, run, recipe):
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    for name in (run.root, recipe):
        done = check(name)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert (document["status"], document["exists"], document["what"]) == ("checked", False, ["adapter"])
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
    assert not RunDir(recipe.parent / "to-come").root.exists()
    hub.add(REPO, private=True)
    hub.edit_file(REPO, "adapter_config.json", pushed_adapter_config(run.adapter))
    hub.edit_file(REPO, "notes.txt", b"of somebody else")
    assert json.loads(check(run.root).stdout)["exists"]
    assert Run(run.root).check_push(REPO).exists  # from Python


def refuse(hub: LoopbackHub, how: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Make the hub refuse a push; returns the exit code and a word of the message."""
    if how == "no token":
        monkeypatch.setenv("HF_TOKEN", "")
        return 7, "no hub token"
    if how == "wrong token":
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        return 7, "does not know this token"
    if how == "read role":
        hub.whoami = account("me", "read")
        return 7, "may read but not write"
    if how == "namespace of others":
        hub.whoami = account("you")
        return 7, "neither your user name"
    if how == "foreign weights":
        hub.add(REPO, private=True)
        hub.edit_file(REPO, "adapter_model.safetensors", b"another run's")
        return 7, "not from this run"
    if how == "public":
        hub.add(REPO, private=False)
        return 2, "--public"
    status, code, word = {"busy": (429, 6, "too many requests"), "down": (503, 6, "the hub has a problem")}[how]
    hub.fail("GET", "/api/models/", status=status, times=None)
    return code, word


@pytest.mark.parametrize(
    "how",
    ["no token", "wrong token", "read role", "namespace of others", "foreign weights", "public", "busy", "down"],
)
def test_a_run_and_a_recipe_are_refused_as_the_push_would_be(hub, check, run, recipe, monkeypatch, how):
    code, word = refuse(hub, how, monkeypatch)
    for name in (run.root, recipe):
        done = check(name)
        assert (done.returncode, word in done.stderr) == (code, True), done.stderr
        assert "continues where this one stopped" not in done.stderr
        assert json.loads(done.stdout)["exit_code"] == code


def test_a_card_and_a_tag_of_somebody_else_are_refused_before_the_push(hub, check, run):
    hub.add(REPO, private=True).tags["v1"] = "0" * 40
    done = check(run.root, REPO, "--tag", "v1")
    assert (done.returncode, "already has the tag v1" in done.stderr) == (7, True)
    hub.edit_file(REPO, "README.md", b"my card")
    done = check(run.root)
    assert (done.returncode, "README.md: there, and not from this run" in done.stderr) == (7, True)
    assert check(run.root, REPO, "--exclude", "README.md").returncode == 0


def test_weights_of_a_gated_base_need_a_confirmation_before_they_become_public(tmp_path, hub, check, base):
    hub.add("big/base", gated="manual", card_data={"license": "gemma"})
    run = make_gated_run(tmp_path, base)
    done = check(run.root, REPO, "--public")
    assert (done.returncode, "--accept-base-license" in done.stderr) == (2, True)
    done = check(run.root, REPO, "--public", "--accept-base-license")
    assert json.loads(done.stdout)["base_license"] == "gemma"
    assert not run.pushes.exists()
    hub.add("they/open", private=False)
    done = check(run.root, "they/open", "--create-pr")  # a pull request is public there
    assert (done.returncode, "--accept-base-license" in done.stderr) == (2, True)
    done = check(run.root, "they/open", "--create-pr", "--accept-base-license")
    assert not json.loads(done.stdout)["private"]


def test_a_check_without_a_repository_says_how_to_name_one(run):
    with pytest.raises(UsageError, match="no repository is given") as caught:
        Run(run.root).check_push()
    assert caught.value.remedy == "Give NAMESPACE/NAME, or set hub.repo_id in the recipe."


def test_options_that_do_not_go_together_exit_2(check, run, recipe):
    assert "--dry-run" in check(run.root, REPO, "--dry-run").stderr
    done = check(recipe, REPO, "--include", "*.json")
    assert (done.returncode, "need the files of a run" in done.stderr) == (2, True)
