"""No command prints or writes the value of a secret, whatever fails."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from support.loopback_server import LoopbackServer
from support.tiny import write_recipe

from orpo_cli.training.metrics_log import MetricsCallback

TOKEN = "hf_aSecretOfTheseTests123"
FOLDER = "swordfish-4711"


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_traceback_has_no_secret_of_the_environment_in_any_encoding() -> None:
    secret = 'pa/ss"wörd+1'
    forms = [
        secret,
        quote(secret),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        html.escape(secret),
        repr(secret)[1:-1],
    ]
    forms += [b64encode(f"{user}:{secret}".encode()).decode() for user in ("a", "ab", "abc")]
    code = f"from orpo_cli.cli import main\ndef bug(): raise KeyError(*{forms!r}, '\\x1b]0;title')\nmain.silence_libraries = bug\nmain.main()\n"
    for name in ("AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, name: secret}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "KeyError" in done.stderr
        assert f"${{{name}}}" in done.stderr
        assert "\x1b" not in done.stderr
        assert not [form for form in forms[:6] if form in done.stderr]
        assert b64encode(secret.encode()).decode()[4:-4] not in done.stderr  # the part that all of them have


@pytest.mark.parametrize(
    ("message", "secret"),
    [
        ("refused {}", FOLDER),
        ("refused {}", TOKEN),
        ("https://user:{}@example.org/x", "not-in-environment"),
        ("https://example.org/x?signature={}", "not-in-environment"),
    ],
)
def test_the_error_of_a_failed_run_has_no_secret(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, message: str, secret: str
) -> None:
    """A library quotes what it read itself."""

    def fail(self: MetricsCallback, args: Any, state: Any, control: Any, **_: Any) -> None:
        raise RuntimeError(message.format(secret))

    monkeypatch.setenv("HF_TOKEN", FOLDER)
    monkeypatch.setattr(MetricsCallback, "on_step_end", fail)
    with pytest.raises(RuntimeError):
        orpo_here("train", write_recipe(tmp_path))
    error = json.loads((tmp_path / "run" / "run.json").read_text())["error"]
    assert error
    assert secret not in error


def test_a_usage_error_has_no_token(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that no recipe names."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    failed = orpo_here("train", tmp_path / f"{TOKEN}.yaml", "--json")
    assert failed.returncode == 2
    assert TOKEN not in failed.stdout + failed.stderr


def test_a_secret_in_an_address_is_never_sent(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither named nor unnamed, for any command that reads a recipe."""
    requests: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

    server = LoopbackServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", FOLDER)
    monkeypatch.setenv("HARMLESS", TOKEN)
    recipe = write_recipe(tmp_path)
    for variable in ("AWS_SECRET_ACCESS_KEY", "HARMLESS"):
        address = f"dataset.train.path=http://127.0.0.1:{server.server_port}/${{{variable}}}.jsonl"
        for command in ("validate", "plan", "data", "train"):
            failed = orpo_here(command, recipe, "--set", address)
            assert failed.returncode == 2
            assert "secret-variable" in failed.stderr
            assert not [each for each in (TOKEN, FOLDER) if each in failed.stdout + failed.stderr]
    server.shutdown()
    assert requests == []


def test_the_token_of_a_model_is_not_in_output_pages_or_run_files(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_ACCESS", FOLDER)
    recipe = write_recipe(tmp_path, steps=1, model={"token": "${MODEL_ACCESS}"})
    page = tmp_path / "page.html"
    commands = [
        ("plan", recipe, "--show-origin"),
        ("data", recipe, "--show", "1", "--html", page),
        ("data", recipe, "--show", "1", "--json"),
        ("train", recipe),
        ("eval", tmp_path / "run"),
    ]
    for command in commands:
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr
        assert FOLDER not in done.stdout + done.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["model"]["token"]["value"] == "${MODEL_ACCESS}"
    assert (tmp_path / "run" / "evaluation.json").is_file()
    assert files_with(FOLDER, tmp_path / "run") == []
    assert FOLDER not in page.read_text()
