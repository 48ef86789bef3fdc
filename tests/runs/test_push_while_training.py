"""`training.push_to_hub`: the hub is asked before the first step; a hub error after it never fails the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.loopback_hub import LoopbackHub, account
from support.tiny import write_recipe

from orpo_cli import hub_status
from orpo_cli.hub.push_during_training import PushCallback
from orpo_cli.rundir import RunDir

REPO = "me/tiny"
TOKEN = "hf_plantedSecret0123456789abcdef"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub server that this process pushes to."""
    with LoopbackHub(token=TOKEN) as hub:
        for name, value in {**hub.environment(), "ORPO_HUB_PATIENCE": "3"}.items():
            monkeypatch.setenv(name, value)
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        yield hub
    hub_status.hub_reachable.cache_clear()


def pushing_recipe(folder: Path, **training: Any) -> Path:
    settings = {"push_to_hub": True, "save_strategy": "steps", "save_steps": 1, **training}
    return write_recipe(folder, steps=3, training=settings, hub={"repo_id": REPO})


def adapter_bytes(run: RunDir) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", set()),
        ("every_save", set()),
        ("checkpoint", {"last-checkpoint"}),
        ("all_checkpoints", {"checkpoint-1", "checkpoint-2", "checkpoint-3"}),
    ],
)
def test_each_hub_strategy_pushes_the_same_files_as_in_transformers(tmp_path, orpo_here, hub, strategy, folders):
    recipe = pushing_recipe(
        tmp_path,
        hub_strategy=strategy if strategy != "every_save" else None,
        hub_always_push=strategy != "end" or None,
        save_total_limit=1,
    )
    done = orpo_here("train", recipe, "--json")
    assert done.returncode == 0, done.stderr
    run, there = RunDir(tmp_path / "run"), hub.repos[REPO].files()
    assert there["adapter_model.safetensors"] == adapter_bytes(run)
    assert there["README.md"] == run.card.read_bytes()
    assert {path.partition("/")[0] for path in there if "/" in path} - {"report"} == folders
    pushed = len(hub.repos[REPO].messages)
    assert (pushed == 1) if strategy == "end" else pushed >= 3, hub.repos[REPO].messages
    if strategy == "checkpoint":
        assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json"} <= set(there)
        assert json.loads(there["last-checkpoint/trainer_state.json"])["global_step"] == 3
    assert not any(path.endswith("training_args.bin") for path in there)
    assert json.loads(done.stdout)["hub"]["commit"] == hub.repos[REPO].head("main")
    assert hub.repos[REPO].private
    assert not (run.root / ".pushing").exists()


def break_hub(hub: LoopbackHub, how: str) -> str:
    """Break the hub; returns a word of the expected message."""
    if how == "role":
        hub.whoami = account("me", "read")
        return "may read but not write"
    if how == "gone":
        hub.server.shutdown()
        hub.server.server_close()
        return "no connection"
    if how == "foreign":
        hub.add(REPO, private=True)
        hub.edit_file(REPO, "adapter_model.safetensors", b"another run's")
        return "--force"
    status = {"500": 500, "401": 401, "cut": None, "nonsense": 200}[how]
    hub.fail("POST", "/commit/", status=status, times=None)
    return {"500": "HTTP 500", "401": "HTTP 401", "cut": "connection", "nonsense": "KeyError"}[how]


@pytest.mark.parametrize("how", ["gone", "500", "401", "cut", "nonsense"])
def test_a_broken_hub_never_fails_the_run(tmp_path, orpo_here, hub, how):
    word = break_hub(hub, how)
    training = {} if how == "cut" else {"save_strategy": "no", "save_steps": None}
    done = orpo_here("train", pushing_recipe(tmp_path, **training), "--json")
    assert done.returncode == 0, done.stderr
    assert word in done.stderr
    assert "[hub-push-failed]" in done.stderr
    assert f"`orpo push-to-hub {tmp_path / 'run'} {REPO}` pushes the run when it is done." in done.stderr
    assert ("before the run: " in done.stderr) is (how == "gone")
    run = RunDir(tmp_path / "run")
    assert run.read_run()["status"] == "finished"
    assert run.read_run()["hub"]["error"]
    assert adapter_bytes(run)
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize("how", ["role", "foreign"])
def test_a_hub_that_refuses_the_push_ends_a_new_run_before_its_first_step(tmp_path, orpo_here, hub, how):
    word = break_hub(hub, how)
    recipe = pushing_recipe(tmp_path, save_strategy="no", save_steps=None)
    done = orpo_here("train", recipe, "--json")
    assert done.returncode == 7, done.stderr
    assert word in done.stderr
    assert "--set training.push_to_hub=false" in done.stderr
    assert not RunDir(tmp_path / "run").is_run()  # the same command can be repeated
    assert hub.count("POST") == 0
    assert orpo_here("train", recipe, "--set", "training.push_to_hub=false").returncode == 0


def test_a_resumed_run_trains_on_although_the_hub_refuses_the_push(tmp_path, orpo_here, hub):
    recipe = pushing_recipe(tmp_path, save_before="0:00:01")
    assert orpo_here("train", recipe).returncode == 130
    hub.whoami = account("me", "read")
    done = orpo_here("train", recipe, "--resume", "auto", "--set", "training.save_before=null")
    assert done.returncode == 0, done.stderr
    assert "before the run: " in done.stderr
    assert "may read but not write" in done.stderr
    assert RunDir(tmp_path / "run").read_run()["status"] == "finished"


def test_an_interruption_is_recorded_before_the_wait_for_a_push(tmp_path, orpo_here, hub, monkeypatch):
    """A scheduler may kill the process while it waits."""
    seen, wait = [], PushCallback.wait_for_pending

    def look(push: PushCallback, *, interrupted: bool) -> None:
        seen.append(push.rundir.read_run()["status"])
        wait(push, interrupted=interrupted)

    monkeypatch.setattr(PushCallback, "wait_for_pending", look)
    done = orpo_here("train", pushing_recipe(tmp_path, save_before="0:00:01"))
    assert done.returncode == 130, done.stderr
    assert "(save_before): the last checkpoint is" in done.stderr
    assert seen == ["interrupted"]


def test_a_signal_while_the_hub_is_asked_ends_the_run(tmp_path, hub):
    hub.delay("GET", "/api/models/", 30)
    command = [sys.executable, "-m", "orpo_cli", "train", str(pushing_recipe(tmp_path))]
    with subprocess.Popen(
        command, env={**os.environ, **hub.environment()}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        until = time.monotonic() + 100
        while not hub.count("GET", "/api/models/") and time.monotonic() < until:
            time.sleep(0.1)
        training.send_signal(signal.SIGTERM)
        _, stderr = training.communicate(timeout=100)
    assert training.returncode == 130
    assert "The run continues" not in stderr
    assert "interrupted (SIGTERM)" in stderr


def test_a_run_without_a_token_ends_before_any_request(tmp_path, orpo_here, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    done = orpo_here("train", pushing_recipe(tmp_path, save_strategy="no", save_steps=None))
    assert done.returncode == 7, done.stderr
    assert "no hub token" in done.stderr
    assert hub.requests == []


def test_a_smoke_run_pushes_nothing(tmp_path, orpo_here, hub):
    done = orpo_here("train", pushing_recipe(tmp_path), "--smoke")
    assert done.returncode == 0, done.stderr
    assert hub.repos == {}


def test_no_secret_is_in_any_output_or_file_of_a_run(tmp_path, hub):
    """A token in HF_TOKEN and a secret in the recipe by reference: neither is in an output or a file of train and push."""
    secret = "anotherPlantedSecret987"
    recipe = pushing_recipe(tmp_path, hub_strategy="checkpoint", report_to="none")
    recipe.write_text(recipe.read_text().replace("model:\n", "model:\n  token: ${MODEL_TOKEN}\n"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment = {
        **inherited,
        **hub.environment(),
        "MODEL_TOKEN": secret,
        "WANDB_API_KEY": secret,
        "HF_HOME": str(tmp_path / "hf"),
    }
    outputs = []

    def orpo(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orpo_cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        outputs.append(done.stdout + done.stderr)
        return done

    done = orpo("train", recipe)
    assert done.returncode == 0, done.stderr
    hub.fail("POST", "/commit/", status=401, times=None)
    (tmp_path / "run" / "adapter" / "new.txt").write_text("new")
    assert orpo("push-to-hub", tmp_path / "run").returncode == 7
    hub.clear_faults()
    assert orpo("push-to-hub", tmp_path / "run").returncode == 0
    for needle in (TOKEN, secret):
        assert not any(needle in text for text in outputs)
        found = [
            path for path in (tmp_path / "run").rglob("*") if path.is_file() and needle.encode() in path.read_bytes()
        ]
        assert found == []
        assert [path for path, content in hub.repos[REPO].files().items() if needle.encode() in content] == []


def test_a_bug_keeps_its_traceback_without_the_token(monkeypatch):
    code = f"from orpo_cli.cli import main\ndef bug(): raise KeyError('{TOKEN}')\nmain.silence_libraries = bug\nmain.main()\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HF_TOKEN": TOKEN}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError" in done.stderr
    assert TOKEN not in done.stderr
