"""Interruption of a run by Ctrl-C or SIGTERM: the callback that stops training after the current step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from orpo_cli.errors import Interrupted


class InterruptCallback(TrainerCallback):
    """Stop on Ctrl-C or SIGTERM: finish the step, save a checkpoint, stop. A second signal stops at once."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.requested = False

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Context of training: handle both signals."""
        handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.note("stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let the Trainer save a checkpoint and stop."""
        if self.requested:
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave an evaluation; the weights are those of the last step."""
        if self.requested:
            raise Interrupted("interrupted during an evaluation")
