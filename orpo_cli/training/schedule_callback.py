"""Callback that tells the observer the schedule of a run, and where the time goes that no step takes: evaluations and saves."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerState

from orpo_cli.estimate.batching import due_steps
from orpo_cli.training.metrics_log import TrainingObserver

EVALUATED_IN_A_STEP = (
    3  # times the pairs of a step that are evaluated in its time: the backward pass takes twice the forward pass
)


class ScheduleCallback(TrainerCallback):
    """Reports when training begins, and which steps are followed by an evaluation or a save."""

    def __init__(self, observer: TrainingObserver, pairs_per_step: int, eval_pairs: int) -> None:
        self.observer = observer
        self.evaluation_cost = eval_pairs / (EVALUATED_IN_A_STEP * max(1, pairs_per_step))

    def on_train_begin(
        self, args: Any, state: TrainerState, control: Any, train_dataloader: Any = None, **_: Any
    ) -> None:
        """Tell the schedule. A run of epochs saves and evaluates after each of them."""
        per_epoch = max(1, math.ceil(len(train_dataloader) / args.gradient_accumulation_steps))
        evaluations = due_steps(args.eval_strategy, state.eval_steps, per_epoch, state.max_steps)
        saves = due_steps(args.save_strategy, state.save_steps, per_epoch, state.max_steps)
        self.observer.begin(state.global_step, state.max_steps, evaluations, saves, self.evaluation_cost)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step begins: what was shown in between has ended."""
        self.observer.status("")

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """The evaluation has ended."""
        self.observer.status("")


def evaluation_status(step: int) -> str:
    """The status during an evaluation: before the first step it is one of the base."""
    return "evaluating" if step else "evaluating the base"
