"""Live watchdogs: apply the rules to each line of metrics.jsonl of a running training, and warn or stop.

Rank 0 alone judges. A stop goes the way of a signal: all ranks save a checkpoint together and stop after the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from orpo_cli import interruption
from orpo_cli.errors import Interrupted, MachineError, Problem, RunError
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema.watchdogs import ADVISE, WatchdogSettings
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.metrics_log import MetricsCallback
from orpo_cli.watchdogs.watchdogs import Finding, Watchdogs


class LiveWatchdogs:
    """Watchdogs of a training, which get the lines that ``metrics`` writes. ``add_warning`` records a finding in run.json.

    ``stopped_by``: the finding that ends the training.
    """

    def __init__(
        self, plan: Plan, metrics: MetricsCallback, add_warning: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        setting = plan.training.get("watchdogs") or ADVISE
        names = WatchdogSettings.model_fields
        self.actions: dict[str, str] = {name: setting if isinstance(setting, str) else ADVISE for name in names}
        if not isinstance(setting, str):
            self.actions |= setting
        self.metrics, self.add_warning = metrics, add_warning
        self.watchdogs = Watchdogs(plan.values())
        self.stopped_by: Finding | None = None
        if set(self.actions.values()) != {"off"}:
            metrics.listeners.append(self.listen)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Read the lines of earlier attempts. Their findings have been shown; the warnings of run.json are of this attempt."""
        for line in lines:
            for finding in self.watchdogs.add(line):
                if self.actions[setting_name(finding)] != "off":
                    self._record(finding)

    def listen(self, line: Mapping[str, Any]) -> None:
        """Report what begins with a line that has just been written."""
        for finding in self.watchdogs.add(line):
            name = setting_name(finding)
            action = self.actions[name]
            if action == "off":
                continue
            self.metrics.event("watchdog", finding.message, code=finding.code, action=action)
            self.metrics.observer.warn(
                Problem(finding.code, finding.message, f"training.watchdogs.{name}", severity="warning")
            )
            self._record(finding)
            if action == "stop":
                self._stop(finding)

    def _record(self, finding: Finding) -> None:
        with suppress(OSError, MachineError):  # a full disk: the line of metrics.jsonl waits for space
            self.add_warning(finding.code, finding.message)

    def _stop(self, finding: Finding) -> None:
        """Ask for the end of the training, unless it has ended by itself, or a signal has come before."""
        state = self.metrics.trainer.state
        if interruption.cause() is not None or state.global_step >= state.max_steps:
            return
        self.stopped_by = finding
        interruption.request(f"watchdog {finding.code}")
        self.metrics.observer.note(f"watchdog {finding.code}: stopping and saving a checkpoint")

    @contextmanager
    def ending_training(self, agreement: Agreement) -> Iterator[None]:
        """Context of the steps: where a watchdog has ended them, Interrupted becomes RunError, on all ranks."""
        try:
            yield
        except Interrupted:
            self._raise_if_stopped(agreement)
            raise

    def _raise_if_stopped(self, agreement: Agreement) -> None:
        finding = next((each for each in agreement.gather(self.stopped_by) if each is not None), None)
        if finding is None:
            return
        interruption.forget()
        raise RunError(
            f"training.watchdogs.{setting_name(finding)} has stopped the run at step {finding.step}: {finding.message} "
            f"[{finding.code}]",
            remedy=f"A checkpoint is saved. `orpo explain {finding.code}` explains the rule; `--resume auto` continues the run as it is.",
        )


def setting_name(finding: Finding) -> str:
    """The name of a watchdog in a recipe."""
    return finding.code.replace("-", "_")
