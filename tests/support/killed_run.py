"""A real `orpo train` that is killed by SIGKILL at the start of a step, commands on its run, and a run as version 0.2.0 left it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orpo_cli.rundir import RunDir
from support.forked_command import ForkedCommand

RESUME = ("--resume", "auto")
READING = (  # commands that read a run
    ("merge",),
    ("export",),
    ("eval",),
    ("generate", "--prompt", "Hi"),
    ("chat",),
    ("push-to-hub", "me/x", "--dry-run"),
)
Orpo = Callable[..., Any]


def kill_in_step(step: int, *arguments: object) -> None:
    """Run ``orpo train ARGUMENTS`` in another process, which is killed when step ``step`` begins, after the last checkpoint."""
    assert code_of_killed(step, "train", *arguments) == -signal.SIGKILL


def code_of_killed(step: int, *arguments: object) -> int:
    """The exit code of ``orpo ARGUMENTS`` in another process, which is killed if step ``step`` begins."""
    import orpo_cli.training.make_trainer  # noqa: F401  the libraries, loaded once for all forks
    from orpo_cli.training.metrics_log import MetricsCallback

    begin = MetricsCallback.on_step_begin

    def killed(self: MetricsCallback, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step + 1 == step:
            self.trainer.finish_checkpoint()
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, args, state, control, **more)

    def prepare() -> None:
        MetricsCallback.on_step_begin = killed  # type: ignore[method-assign]

    with TemporaryDirectory() as folder:
        return ForkedCommand(Path(folder), [str(each) for each in arguments], before=prepare).wait()


def make_run_of_version_0_2_0(rundir: RunDir) -> None:
    """Remove from a run what version 0.2.0 did not write: lock, attempts, fingerprints, logs and manifests."""
    new = ("attempts", "fingerprints", "result")
    rundir.run.write_text(json.dumps({name: value for name, value in rundir.read_run().items() if name not in new}))
    (rundir.root / ".lock").unlink(missing_ok=True)
    shutil.rmtree(rundir.logs, ignore_errors=True)
    for manifest in rundir.checkpoints.glob("*/manifest.json"):
        manifest.unlink()


def attempts(rundir: RunDir) -> list[tuple[Any, ...]]:
    """Number, reason of the end, first and last step of each attempt to train."""
    return [
        (each["number"], each["reason"], each["from_step"], each["to_step"]) for each in rundir.read_run()["attempts"]
    ]


def run_command(orpo_here: Orpo, command: tuple[str, ...], rundir: RunDir) -> Any:
    return orpo_here(command[0], rundir.root, *command[1:])
