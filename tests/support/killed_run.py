"""A real `orpo train` that is killed by SIGKILL at the start of a step, and a run as version 0.2.0 left it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

from orpo_cli.rundir import RunDir

_KILLED = """
import os, signal, sys
from orpo_cli.cli.main import main
from orpo_cli.training.metrics_log import MetricsCallback
number, sys.argv = int(sys.argv[1]), ["orpo", *sys.argv[2:]]
begin = MetricsCallback.on_step_begin
def killed(self, args, state, control, **more):
    if state.global_step + 1 == number:
        self.trainer.finish_checkpoint()
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self, args, state, control, **more)
MetricsCallback.on_step_begin = killed
main()
"""


def kill_in_step(step: int, *arguments: object) -> None:
    """Run ``orpo train ARGUMENTS`` in a new process, which is killed when step ``step`` begins, after the last checkpoint."""
    assert code_of_killed(step, "train", *arguments) == -signal.SIGKILL


def code_of_killed(step: int, *arguments: object) -> int:
    """The exit code of ``orpo ARGUMENTS`` in a new process, which is killed if step ``step`` begins."""
    command = [sys.executable, "-c", _KILLED, str(step), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=240, check=False).returncode


def make_run_of_version_0_2_0(rundir: RunDir) -> None:
    """Remove from a run what version 0.2.0 did not write: lock, attempts, fingerprints, logs and manifests."""
    new = ("attempts", "fingerprints", "result")
    rundir.run.write_text(json.dumps({name: value for name, value in rundir.read_run().items() if name not in new}))
    (rundir.root / ".lock").unlink(missing_ok=True)
    shutil.rmtree(rundir.logs, ignore_errors=True)
    for manifest in rundir.checkpoints.glob("*/manifest.json"):
        manifest.unlink()
