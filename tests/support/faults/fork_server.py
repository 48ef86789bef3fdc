"""Fork server, the client: commands as children of a process that has imported the libraries, with faults at given points.

A tiny training takes about a second instead of ten. ``Command`` describes one run of `orpo`, ``Process`` is a started one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from support.forks import end_session

ROOT = Path(__file__).parents[3]
START_SECONDS, ANSWER_SECONDS = 240.0, 60.0  # at most, on a slow machine


@dataclass
class Command:
    """A command line with its surroundings.

    ``fault``: arguments of ``server_process.install_fault``. ``start_at``: time of the clock at which it begins; commands with the
    same time begin together. ``limits``: names of ``resource`` limits with their values.
    """

    arguments: Sequence[str]
    folder: Path
    environment: dict[str, str | None] = field(default_factory=dict)
    stdin: str = os.devnull
    fault: dict[str, Any] | None = None
    limits: dict[str, int] = field(default_factory=dict)
    ignored_signals: Sequence[int] = ()
    start_at: float = 0.0


@dataclass
class Process:
    """A started command; ``code`` is minus the number of the signal that ended it."""

    server: ForkServer
    pid: int
    output: Path
    errors: Path
    code: int | None = None

    def wait(self, seconds: float = 120) -> int:
        """The exit code. Raises TimeoutError, with what the command printed, if it does not end."""
        self.code = self.server.request("wait", pid=self.pid, seconds=seconds)["status"]
        if self.code is None:
            self.end()
            raise TimeoutError(f"not ended after {seconds} s:\n{self.said()}")
        return self.code

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether the command has ended, or ends within ``seconds``."""
        self.code = self.server.request("wait", pid=self.pid, seconds=seconds)["status"]
        return self.code is not None

    def end(self) -> None:
        """End the command with SIGKILL, and the processes that it started, if it has not ended."""
        if self.code is None:
            self.server.request("kill", pid=self.pid)
            self.code = self.server.request("wait", pid=self.pid, seconds=10)["status"]

    def send(self, number: int) -> None:
        """Send a signal, if the command has not ended."""
        if self.code is None:
            os.kill(self.pid, number)

    def said(self) -> str:
        """What the command has written to standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace") if self.errors.exists() else ""


class ForkServer:
    """The server process, as a context manager."""

    def __init__(self, logs: Path, environment: dict[str, str] | None = None) -> None:
        self.logs = logs
        self.environment = environment or {}
        self.number = 0

    def __enter__(self) -> ForkServer:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path, "ORPO_PAIR_CACHE": "0"}
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.faults.server_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **quiet, **self.environment}, cwd=ROOT,
            )  # fmt: skip
        theirs.close()
        self.connection = ours
        self.stream = ours.makefile("rw")
        ready = self._answer(START_SECONDS)
        if ready["threads"] != 1:
            raise RuntimeError(f"the fork server has {ready['threads']} threads: a fork would copy their locks")
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.connection.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            end_session(self.process.pid)

    def request(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        print(json.dumps({"request": name, **arguments}), file=self.stream, flush=True)
        return self._answer(ANSWER_SECONDS + arguments.get("seconds", 0.0))

    def _answer(self, seconds: float) -> dict[str, Any]:
        self.connection.settimeout(seconds)
        try:
            line = self.stream.readline()
        except TimeoutError:
            end_session(self.process.pid)
            line = ""
        if not line:
            raise RuntimeError(f"the fork server has ended:\n{(self.logs / 'server.log').read_text()[-2000:]}")
        return dict(json.loads(line))

    def start(self, command: Command) -> Process:
        """Start a command."""
        self.number += 1
        output, errors = (self.logs / f"{self.number}.{name}" for name in ("stdout", "stderr"))
        settings = asdict(command) | {
            "arguments": [str(each) for each in command.arguments],
            "folder": str(command.folder),
        }
        answer = self.request("start", **settings, stdout=str(output), stderr=str(errors))
        return Process(self, answer["pid"], output, errors)

    def run(self, command: Command, seconds: float = 120) -> Process:
        """Run a command to its end."""
        process = self.start(command)
        process.wait(seconds)
        return process

    def run_killed_after(self, command: Command, seconds: float) -> Process:
        """Run a command, killed with SIGKILL after ``seconds`` if it has not ended."""
        process = self.start(command)
        if not process.has_ended(seconds):
            process.send(signal.SIGKILL)
            process.wait(10)
        return process

    def view(self, path: Path) -> Path:
        """A path as the server and its commands see it, with the file systems that it has mounted."""
        return Path(f"/proc/{self.process.pid}/root{path}")


def together() -> float:
    """A time at which commands that are started now can begin at once."""
    return time.time() + 0.3
