"""A real `orpo train` that is killed by SIGKILL at the start of a step."""

from __future__ import annotations

import signal
import subprocess
import sys

_KILLED = """
import os, signal, sys
from orpo_cli.cli.main import main
from orpo_cli.training.metrics_log import MetricsCallback
number, sys.argv = int(sys.argv[1]), ["orpo", *sys.argv[2:]]
begin = MetricsCallback.on_step_begin
def killed(self, args, state, control, **more):
    if state.global_step + 1 == number:
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self, args, state, control, **more)
MetricsCallback.on_step_begin = killed
main()
"""


def kill_in_step(step: int, *arguments: object) -> None:
    """Run ``orpo train ARGUMENTS`` in a new process, which is killed when step ``step`` begins."""
    assert code_of_killed(step, "train", *arguments) == -signal.SIGKILL


def code_of_killed(step: int, *arguments: object) -> int:
    """The exit code of ``orpo ARGUMENTS`` in a new process, which is killed if step ``step`` begins."""
    command = [sys.executable, "-c", _KILLED, str(step), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=240, check=False).returncode
