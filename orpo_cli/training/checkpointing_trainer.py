"""Checkpoints of a trainer: saved to a staging folder, published when complete, and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import SaveStrategy

from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_files
from orpo_cli.errors import RunError
from orpo_cli.model.save import remove_empty_card
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.training.full_state import (
    full_tensor,
    gather_optimizer,
    gather_weights,
    loading_full_weights,
    scatter_optimizer,
)
from orpo_cli.training.random_state import draws_dropout, load_random_state, save_random_state, seed_process
from orpo_cli.training.retention import keep_only
from orpo_cli.training.trained_totals import TOTALS_FILE


class CheckpointingTrainer(Trainer):
    """Saving and loading of ``PairTrainer``, which has the attributes."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, written to a staging folder. A thread publishes it when it is complete."""

        totals = self.checkpoint_totals()

        def write(writer: CheckpointWriter) -> str | None:
            super(CheckpointingTrainer, self)._save_checkpoint(model, trial)
            if writer.owner:
                (writer.staged / TOTALS_FILE).write_text(json.dumps(totals), encoding="utf-8")
            self._name_best_checkpoint(writer)
            best: str | None = self.state.best_model_checkpoint
            return best

        self.status("saving a checkpoint")
        self.saver.save(self.state.global_step, write)
        folder = Path(self.args.output_dir)
        self.report_event("checkpoint", path=f"{folder.name}/checkpoint-{self.state.global_step}")
        self.status("")

    def finish_checkpoint(self) -> None:
        """Wait until the last checkpoint is complete. Raises OSError, for example where the disk is full."""
        self.saver.finish()

    def _name_best_checkpoint(self, writer: CheckpointWriter) -> None:
        """Let the state name the final folder of the best checkpoint; the Trainer looks for it in the staging folder."""
        best_step = self.state.best_global_step
        if self.args.save_strategy == SaveStrategy.NO or not best_step:
            return
        best = Path(self.args.output_dir) / f"checkpoint-{best_step}"
        if best == writer.final or best.is_dir():
            self.state.best_model_checkpoint = str(best)
            if writer.owner:
                self.state.save_to_json(str(writer.staged / TRAINER_STATE_NAME))

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint. Raises RunError if it is damaged: the last weights are another result."""
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint or "").name  # the run may have moved
        self.state.best_model_checkpoint = str(best)
        try:
            check_files(best)
        except CheckpointDamaged as error:
            raise RunError(
                f"the best checkpoint {self.state.best_model_checkpoint} is damaged: {error}.",
                remedy="Train it again: `--resume PATH` with a checkpoint before it.",
            ) from error
        with loading_full_weights() if self.zero is None else self.zero.loading_full_weights():
            super()._load_best_model()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's end of a training; with ``save_total_limit`` 1 the best checkpoint is kept, and damaged ones are."""
        self.status("finishing the last checkpoint")
        self.saver.finish_together()  # all load the best checkpoint
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        if limit == 1 and self.args.should_save and self.state.best_model_checkpoint is not None:
            keep_only(Path(self.state.best_model_checkpoint))
        return output

    def _get_output_dir(self, trial: Any) -> str:
        writer = self.saver.writer
        folder: str = super()._get_output_dir(trial) if writer is None else str(writer.staging)
        return folder

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where a resumed run has no steps left: the Trainer would train another one."""
        if self.train_sampler is not None:  # the Trainer does not find it behind the first batches that are left out
            self.train_sampler.set_epoch(kwargs["epoch"])
            is_resumed = kwargs["resume_from_checkpoint"] is not None and kwargs["epoch"] == kwargs["epochs_trained"]
            if is_resumed and not self.args.ignore_data_skip:
                self.train_sampler.skipped = kwargs["steps_trained_in_current_epoch"]
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def gather_weights(self, *, save_embedding_layers: bool | str = "auto") -> dict[str, torch.Tensor] | None:
        """What ``save_pretrained`` gets as ``state_dict``, on rank 0; None where the weights are not sharded. All ranks call it."""
        if self.fsdp is None and self.zero is None:
            return None
        gather = full_tensor if self.zero is None else self.zero.full_weight
        return gather_weights(self.model, self.agreement, gather, save_embedding_layers=save_embedding_layers)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.fsdp is None and self.zero is None:
            with self.saver.deferring_errors():
                super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.zero is None:
            optimizer = gather_optimizer(self.optimizer, self.agreement)
            scheduler = self.lr_scheduler.state_dict()
        else:
            optimizer = self.zero.gather_optimizer(self.agreement)
            scheduler = self.zero.scheduler_state(self.lr_scheduler.state_dict())
        with self.saver.deferring_errors():
            if self.args.should_save:
                torch.save(optimizer, Path(output_dir) / OPTIMIZER_NAME)
                torch.save(scheduler, Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or (self.fsdp is None and self.zero is None):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Mapped: a rank reads its shards only.
        optimizer = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
        scheduler = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        if self.zero is None:
            self.optimizer.load_state_dict(scatter_optimizer(optimizer, self.optimizer))
            self.lr_scheduler.load_state_dict(scheduler)
        else:
            self.zero.load_optimizer(optimizer)
            self.zero.load_scheduler(self.lr_scheduler, scheduler)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        weights = self.gather_weights() if state_dict is None else state_dict
        with self.saver.deferring_errors():
            super()._save(output_dir, weights)
            folder = Path(output_dir or self.args.output_dir)
            remove_empty_card(folder)
            if not self.save_training_args:
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_rng_state(self, output_dir: str) -> None:
        rank, processes = self.accelerator.process_index, self.agreement.num_processes
        save_random_state(Path(output_dir), self.args.device, rank, processes)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random state, or draw from a seed where the checkpoint is from another number of processes."""
        rank, processes = self.accelerator.process_index, self.agreement.num_processes
        if checkpoint is None or load_random_state(Path(checkpoint), self.args.device, rank, processes):
            return
        seed_process(self.args.seed, self.state.global_step, rank)
        if rank == 0 and draws_dropout(self.model):
            self.note("the number of processes has changed, and with it the masks of dropout from here on")
