"""Remaining time of a training, from the measured durations of its steps, evaluations and saves.

The estimates of progress bars use the last seconds only, and have no value where a step takes longer.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal

Activity = Literal["step", "evaluation", "save", "other"]

STEPS_IN_MEAN = 50  # enough for steps of different lengths, few enough to follow a change of the speed
PAUSES_IN_MEAN = 3


class RemainingTime:
    """Remaining time of a run. The caller says when a step is done, and when something else than a step begins or ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.step = self.total = 0
        self._evaluations: Sequence[int] = ()
        self._saves: Sequence[int] = ()
        self._evaluation_cost = 0.0
        self._evaluated = self._saved = 0  # the last steps whose evaluation and save are done
        self._steps: deque[float] = deque(maxlen=STEPS_IN_MEAN)
        self._pauses: dict[Activity, deque[float]] = {
            kind: deque(maxlen=PAUSES_IN_MEAN) for kind in ("evaluation", "save", "other")
        }
        self._activity: Activity = "other"
        self._since = clock()  # when the activity began
        self._in_step = 0.0  # seconds of the current step before a pause
        self._in_pause: dict[
            Activity, float
        ] = {}  # of pauses that have not ended: another one may interrupt an evaluation
        self._warmed_up = False

    def begin(
        self, step: int, total: int, evaluations: Sequence[int], saves: Sequence[int], evaluation_cost: float
    ) -> None:
        """Set the schedule: the step to start from, the number of steps, and the steps with an evaluation or a save, in order.

        ``evaluation_cost``: of an evaluation, in steps; used until one is measured.
        """
        self.switch("step")
        self.step, self.total = step, total
        self._evaluations, self._saves, self._evaluation_cost = evaluations, saves, evaluation_cost
        self._evaluated = self._saved = step
        self._in_step = 0.0

    def switch(self, activity: Activity) -> None:
        """Note that another activity begins. Evaluations and saves end when a step or a save begins."""
        if activity == self._activity:
            return
        now = self._clock()
        if self._activity == "step":
            self._in_step += now - self._since
        else:
            self._in_pause[self._activity] = self._in_pause.get(self._activity, 0.0) + now - self._since
        self._activity, self._since = activity, now
        if activity not in ("step", "save"):
            return
        for kind, seconds in self._in_pause.items():
            self._pauses[kind].append(seconds)
        if "evaluation" in self._in_pause:
            self._evaluated = self.step
        if "save" in self._in_pause:
            self._saved = self.step
        self._in_pause.clear()

    def step_done(self, step: int) -> None:
        """Note the end of a step. What is due after earlier steps is done, or was left out."""
        self.switch("step")
        now = self._clock()
        seconds = self._in_step + now - self._since
        if self._steps and not self._warmed_up:  # the first step of a process takes longer than the others
            self._steps, self._warmed_up = (
                deque([seconds], STEPS_IN_MEAN),
                True,
            )  # the display reads it in another thread
        else:
            self._steps.append(seconds)
        self.step, self._since, self._in_step = step, now, 0.0
        self._evaluated, self._saved = max(self._evaluated, step - 1), max(self._saved, step - 1)

    def seconds(self) -> float | None:
        """The remaining seconds; None before the first step is done."""
        steps = self._steps
        if not steps:
            return None
        each = fmean(steps)
        evaluation = self._mean_pause("evaluation", self._evaluation_cost * each)
        save = self._mean_pause("save", 0.0)
        left = each * (self.total - self.step)
        left += evaluation * _count_after(self._evaluations, self._evaluated)
        left += save * _count_after(self._saves, self._saved)
        running = self._clock() - self._since + self._in_pause.get(self._activity, 0.0)
        usual = {"step": each, "evaluation": evaluation, "save": save, "other": 0.0}[self._activity]
        if self._activity == "step":
            running += self._in_step
        return max(0.0, left - min(running, usual))

    def _mean_pause(self, kind: Activity, otherwise: float) -> float:
        return fmean(self._pauses[kind]) if self._pauses[kind] else otherwise


def _count_after(steps: Sequence[int], step: int) -> int:
    return len(steps) - bisect_right(steps, step)


def clock_text(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def duration_text(seconds: float) -> str:
    """A duration with its two largest units: ``45 s``, ``12 min 30 s``, ``3 h 25 min``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if (rounded := round(seconds)) < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
