"""Process of a trial: `orpo train` with the values of the trial, on one device, with its output in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.interruption import uninterrupted
from orpo_cli.launch.command import worker_command
from orpo_cli.machine import usable_cpus
from orpo_cli.recipe.source.yaml_writer import inline_yaml
from orpo_cli.sweep.record import SweepDir
from orpo_cli.sweep.trials import Trial

INTERRUPTED_CODE = 130
KILL_SECONDS = 10.0  # for a trial that was told to stop at once


@dataclass(frozen=True)
class TrialCommand:
    """What the commands of all trials have in common: recipe, and ``--set`` of the user and of the sweep."""

    recipe: str
    overrides: Sequence[str]

    def arguments(self, trial: Trial, sweep: SweepDir) -> list[str]:
        """The arguments of `orpo` that train a trial, or resume it."""
        own = [f"name={inline_yaml(trial.name)}", f"output_dir={inline_yaml(str(sweep.run(trial)))}"]
        changes = [word for each in (*self.overrides, *trial.overrides(), *own) for word in ("--set", each)]
        place = ["--resume", "auto", "--sweep", str(sweep.root), "--trial", trial.name, "--parent", str(os.getpid())]
        return ["train", self.recipe, *changes, *place]


class TrialProcess:
    """A trial that is being trained. It is in a session of its own, so that Ctrl-C in a terminal is for the sweep only."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.started = time.monotonic()
        self.told_to_stop = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output, uninterrupted():
            self.log_start = output.tell()
            self.log = log
            self.process = subprocess.Popen(
                worker_command(arguments),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def exit_code(self) -> int | None:
        """The exit code; negative for a signal that killed it, None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Tell the trial to save a checkpoint after the current step, and to end."""
        if not self.told_to_stop:
            self.told_to_stop = True
            self._send(signal.SIGTERM)

    def stop_at_once(self) -> None:
        """End the trial as a second Ctrl-C does."""
        self.stop()
        self._send(signal.SIGINT)

    def wait(self, seconds: float | None) -> None:
        """Wait until the trial has ended; kill it after ``seconds``."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def error(self) -> str:
        """The last error in the log of this process, in one line."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            lines = [each.rstrip() for each in file.read().decode(errors="replace").splitlines()]
        error = next((each for each in reversed(lines) if each.startswith("error: ")), None)
        if error is None:  # a problem of the recipe, or the last line of a traceback
            error = next((each for each in reversed(lines) if each and not each.startswith("  →")), "")
        return error.removeprefix("error: ")

    def _send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


def exit_reason(code: int, error: str) -> str:
    """Why a trial failed, from its exit code and its last error."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return error or f"exit code {code}"


def cuda_devices() -> list[str]:
    """The CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES names them. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return []
    written = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [each.strip() for each in written.split(",") if each.strip()]
    return names or [str(index) for index in range(torch.cuda.device_count())]


def slot_environments(jobs: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """The variables of each of several trials at the same time: one GPU each, or a share of the CPU's cores."""
    if jobs == 1:
        return [{}]
    if devices:
        return [{"CUDA_VISIBLE_DEVICES": device} for device in devices[:jobs]]
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdecimal() and int(given) else usable_cpus()
    return [{"OMP_NUM_THREADS": str(max(1, threads // jobs))} for _ in range(jobs)]
