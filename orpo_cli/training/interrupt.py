"""Interruption of a training: the callback that stops after the current step, with a checkpoint.

A signal may reach one process of several. They agree after each step, so that all of them stop after the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from orpo_cli import interruption
from orpo_cli.errors import Interrupted
from orpo_cli.training.agreement import Agreement

if TYPE_CHECKING:
    from orpo_cli.training.trl_trainer import PairTrainer


class InterruptCallback(TrainerCallback):
    """Stop because of a signal: finish the step, save a checkpoint, stop. A second SIGINT stops at once.

    Before the first step a signal stops at once too, because there is nothing to save.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.trainer: PairTrainer | None = None  # while it trains
        self.first_step_begun = False
        self.stopping = False
        self.saved_step = 0  # of the last checkpoint
        self.resume_from: Path | None = None
        self._handling = ExitStack()

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Context of the steps and of what has to be completed after them."""
        with self._handling:
            yield

    def run_steps(self, trainer: PairTrainer, resume_from: Path | None) -> None:
        """Train, from the checkpoint ``resume_from`` if there is one.

        Raises Interrupted when a checkpoint of the last step is saved, OSError where it could not be.
        """
        self.trainer, self.resume_from = trainer, resume_from
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except Interrupted:
            if trainer.state.global_step > self.saved_step:  # during an evaluation, where the Trainer saves nothing
                trainer._save_checkpoint(trainer.model, None)
            trainer.saver.finish_together()
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # closes trackers
            raise
        finally:
            self.trainer = None
            trainer.finish_checkpoint()

    def _note_signal(self, signal_name: str) -> None:
        what = "when the result is saved" if self.trainer is None else "after this step and saving a checkpoint"
        self.note(f"{signal_name}: stopping {what}; Ctrl-C stops at once")

    def _has_to_stop(self) -> bool:
        """Whether one of the processes has to stop, which all of them ask at the same places."""
        agreement = self.trainer.agreement if self.trainer is not None else Agreement()
        if not agreement.any(interruption.cause() is not None):
            return False
        causes = agreement.gather(interruption.cause())
        rank = next(rank for rank, cause in enumerate(causes) if cause is not None)
        if interruption.cause() is None:
            interruption.request(f"{causes[rank]}, rank {rank}")
            self._note_signal(f"{causes[rank]}, rank {rank}")
        return True

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the checkpoint where its evaluation was interrupted, so that the best checkpoint is the same."""
        if self.trainer is None or self.resume_from is None or not evaluation_is_missing(args, state):
            return
        metrics = self.trainer._evaluate(None, None)
        if self.trainer._determine_best_metric(metrics, None):
            state.best_model_checkpoint = str(self.resume_from)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """From the first step on, a signal waits for the end of a step."""
        if not self.first_step_begun:
            self._handling.enter_context(interruption.until_complete(self._note_signal))
            self.first_step_begun = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let the Trainer save a checkpoint and stop."""
        if self._has_to_stop():
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = self.stopping = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop after a checkpoint that was being written when the signal arrived."""
        self.saved_step = state.global_step
        if self._has_to_stop():
            control.should_training_stop = self.stopping = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave before the Trainer ends a training: it would load the best weights and remove other checkpoints."""
        if self.stopping or self._has_to_stop():
            raise Interrupted("interrupted after a step")

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave an evaluation; the weights are those of the last step."""
        if self.first_step_begun and self._has_to_stop():
            raise Interrupted("interrupted during an evaluation")


def evaluation_is_missing(args: Any, state: TrainerState) -> bool:
    """Whether an evaluation is due after the last step, and has not been done."""
    step, epoch = state.global_step, state.epoch or 0.0
    if any(entry["step"] == step for entry in state.log_history if "eval_loss" in entry):
        return False
    if args.eval_strategy == "steps":
        return bool(step >= args.eval_delay and (step % state.eval_steps == 0 or step >= state.max_steps))
    return bool(args.eval_strategy == "epoch" and epoch >= args.eval_delay and abs(epoch - round(epoch)) < 1e-9)
