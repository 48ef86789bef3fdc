"""Signals while a command starts: during imports, and when `orpo train` replaces its process."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Python imports this module before anything of orpo-cli. The process sends itself the signal at a known point.
SEND_SIGNAL = """
import os, sys

def send():
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))

class Finder:
    def find_spec(self, name, *_):
        if name == os.environ["AT"]:
            sys.meta_path.remove(self)
            send()

if os.environ["AT"] == "execve":
    replace = os.execve
    def execve(*arguments):
        send()
        replace(*arguments)
    os.execve = execve
else:
    sys.meta_path.insert(0, Finder())
"""


def run_with_signal(folder: Path, number: int, at: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(SEND_SIGNAL)
    cache = {"ORPO_CACHE": os.devnull}  # a second plan of a model imports nothing of it
    environment = {**os.environ, **cache, "PYTHONPATH": str(folder), "SIGNAL": str(number), "AT": at}
    environment.pop("GLIBC_TUNABLES", None)
    return subprocess.run(
        [sys.executable, "-m", "orpo_cli", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=100, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only there `orpo train` replaces its process")
@pytest.mark.parametrize(
    ("at", "number", "command"),
    [
        ("orpo_cli.cli.main", signal.SIGTERM, "validate"),  # the first import after the handlers are installed
        ("typer", signal.SIGINT, "validate"),
        ("orpo_cli.cli.validate", signal.SIGHUP, "validate"),
        ("pydantic", signal.SIGINT, "validate"),
        ("execve", signal.SIGTERM, "train"),
        ("execve", signal.SIGINT, "train"),
        ("torch", signal.SIGUSR1, "train"),
        ("transformers", signal.SIGINT, "train"),
    ],
)
def test_a_signal_at_the_start_is_one_message_and_exit_code_130(
    tmp_path: Path, at: str, number: signal.Signals, command: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {model_name_or_path: ./model}\ndataset: {train: {path: ./pairs.jsonl}}\n")
    ended = run_with_signal(tmp_path, number, at, command, str(recipe))
    assert ended.returncode == 130, ended.stderr
    assert f"interrupted ({number.name})" in ended.stderr
    assert "error" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert {path.name for path in tmp_path.iterdir()} <= {
        "model", "pairs.jsonl", "recipe.yaml", "sitecustomize.py", "__pycache__",
    }  # fmt: skip
