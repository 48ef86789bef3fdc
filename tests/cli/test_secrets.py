"""No command prints or writes the value of a secret, whatever fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe

from orpo_cli.training.metrics_log import MetricsCallback

TOKEN = "hf_aSecretOfTheseTests123"
FOLDER = "swordfish-4711"


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_traceback_has_no_token(tmp_path: Path, orpo: Callable[..., Any]) -> None:
    path = "dataset.train.path=zip://a.jsonl::archives/${HF_TOKEN}.zip"
    failed = orpo("data", write_recipe(tmp_path), "--set", path, env={**os.environ, "HF_TOKEN": TOKEN})
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert "archives/${HF_TOKEN}.zip" in failed.stderr
    assert TOKEN not in failed.stdout + failed.stderr


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


def test_a_path_from_a_secret_is_not_in_output_pages_or_run_files(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_SECRET", FOLDER)
    recipe = write_recipe(tmp_path, steps=1)
    (tmp_path / FOLDER).mkdir()
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").rename(tmp_path / FOLDER / f"{name}.jsonl")
    recipe.write_text(
        recipe.read_text()
        .replace("train.jsonl", "${DATA_SECRET}/train.jsonl")
        .replace("heldout.jsonl", "${DATA_SECRET}/heldout.jsonl")
    )
    page = tmp_path / "page.html"
    commands = [
        ("data", recipe, "--show", "1", "--html", page),
        ("data", recipe, "--show", "1", "--json"),
        ("train", recipe),
        ("eval", tmp_path / "run"),
    ]
    for command in commands:
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr
        assert FOLDER not in done.stdout + done.stderr
    assert "${DATA_SECRET}/train.jsonl" in page.read_text()
    assert (tmp_path / "run" / "evaluation.json").is_file()
    assert files_with(FOLDER, tmp_path / "run") == []
    assert FOLDER not in page.read_text()
