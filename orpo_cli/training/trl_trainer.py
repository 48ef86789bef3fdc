"""Trainer on TRL's ORPOTrainer: the only module that imports ``trl``.

TRL 1.16 is pinned, because experimental modules may change in any release; tests/parity fail when they do. Everything of the
loss is TRL's own, except:

* The pairs come tokenized from ``orpo_cli.data``: TRL maps row by row, never truncates prompts, and doubles end tokens.
* A loss or gradient that is not finite stops the run with an error that names the pairs; TRL logs 0.0 and continues.
* No model card is written into checkpoints and no telemetry is sent; ``orpo_cli.card.model_card`` writes the card.
* ``lora.loraplus_lr_ratio`` selects peft's LoRA+ optimizer.
* ``loss_on_prompt: false`` leaves the prompt out of the NLL.

``packed_trainer`` replaces the step by the engine's, with the same loss and gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import SaveStrategy

from orpo_cli import interruption
from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_files
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import MachineError, RunError, UsageError
from orpo_cli.training.checkpoint_writer import CheckpointWriter, all_finite
from orpo_cli.training.out_of_memory import random_state_restorer
from orpo_cli.training.retention import keep_only, remove_old_checkpoints

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental": the pin answers it
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.experimental.utils import pad_to_length

if TYPE_CHECKING:
    from datasets import Dataset

# Texts are left out: reading them from the table takes longer than reading the ids.
TRAINING_COLUMNS = ("row", "prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids", "length")


class PairTrainer(ORPOTrainer):
    """ORPOTrainer on tokenized pairs.

    ``loss_on_prompt``: whether the NLL covers prompt and chosen completion, as trl's does, or the completion alone.
    ``save_training_args``: whether a checkpoint has the pickle of the arguments, which contains values that a recipe took
    from the environment. ``lora_plus``: arguments of peft's LoRA+ optimizer (arXiv 2402.12354), which gives the adapter's
    two matrices different learning rates. ``tokens_seen`` counts tokens of chosen and rejected sequences without padding;
    ``step_rows`` has the names of the rows of the current step.
    """

    def __init__(
        self,
        *,
        loss_on_prompt: bool = True,
        save_training_args: bool = True,
        lora_plus: dict[str, float] | None = None,
        note: Callable[[str], None] = warnings.warn,
        **kwargs: Any,
    ) -> None:
        self.loss_on_prompt = loss_on_prompt
        self.save_training_args = save_training_args
        self.lora_plus = lora_plus or {}
        self.note = note
        self.writer: CheckpointWriter | None = None  # of the checkpoint that is being written
        self.check_owned: Callable[[], None] = lambda: None  # raises where another process has taken the run over
        self.publish_in_background = True
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish-checkpoint")
        self._publishing: tuple[CheckpointWriter, Future[None]] | None = None
        self.tokens_seen = 0
        self.step_rows: list[str] = []
        super().__init__(**kwargs)
        self.data_collator: Any = PairCollator(self.data_collator)

    def create_optimizer(self, model: Any = None) -> Any:
        """The plan's optimizer, with LoRA+ parameter groups where the plan has them. Raises UsageError or MachineError where the library refuses it."""
        with explain_setting_errors("training.optim", "training.optim_args"):
            if self.lora_plus and getattr(self, "optimizer", None) is None:
                from peft.optimizers import create_loraplus_optimizer

                optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                arguments |= {"loraplus_weight_decay": self.args.weight_decay, **self.lora_plus}
                self.optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
                    self.model, optimizer_class, **arguments
                )
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The plan's learning-rate schedule. Raises UsageError where the library refuses it."""
        with explain_setting_errors("training.lr_scheduler_type", "training.lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, optimizer)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # of accelerate's wrapper, which iterates over it
        inner.worker_init_fn = partial(_init_worker, inner.worker_init_fn)
        return loader

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch. Raises RunError where the loss is not finite."""
        self.step_rows.extend(inputs["row"])
        self.tokens_seen += int(inputs["chosen_attention_mask"].sum() + inputs["rejected_attention_mask"].sum())
        return self._check_finite(super().training_step(model, inputs, num_items_in_batch), inputs["row"])

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """trl's forward pass, with the NLL of the completion alone where ``loss_on_prompt`` is false."""
        outputs: tuple[torch.Tensor, ...] = super().concatenated_forward(model, batch)
        if self.loss_on_prompt:
            return outputs
        logits = outputs[2]  # chosen's, (pairs, tokens - 1, vocab_size)
        labels = pad_to_length(batch["chosen_labels"], logits.shape[1] + 1, pad_value=-100)[:, 1:]
        nll = cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
        return (*outputs[:4], nll, *outputs[5:])

    def _check_finite(self, loss: torch.Tensor, rows: list[str]) -> torch.Tensor:
        if not torch.isfinite(loss):
            raise self._non_finite_error("loss", loss.item(), rows)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if self._publishing is not None and self._publishing[1].done():
            self.finish_checkpoint()  # raises an error of the disk as soon as it is known
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self.step_rows = self.step_rows, []
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips such steps and lowers its scale
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            raise self._non_finite_error("gradient norm", float(norm), rows)
        return norm

    def _non_finite_error(self, quantity: str, value: float, rows: list[str]) -> RunError:
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        return RunError(
            f"step {self.state.global_step + 1}: the {quantity} is {value}; the weights of the step before are kept. Pairs: {shown}.",
            remedy="Look at these pairs, lower training.learning_rate, or train in bf16 or float32 instead of fp16.",
        )

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, written to a staging folder. A thread publishes it when it is complete.

        With several processes, each writes its random state, and the first one publishes.
        """
        self.finish_checkpoint()
        folder, owner = Path(self.args.output_dir), self.args.should_save
        step, check_owned = self.state.global_step, self.check_owned
        with ExitStack() as staging:
            writer = CheckpointWriter(folder, step, owner=owner, check_owned=check_owned)
            self.writer = staging.enter_context(writer)
            self.accelerator.wait_for_everyone()  # the owner has removed the folder of a killed process
            finite = self._publisher.submit(all_finite, list(self._state_tensors()) if owner else [])
            try:
                super()._save_checkpoint(model, trial)
                self._name_best_checkpoint(writer)
            finally:
                self.writer = None
                writer.finite = finite.result()
            if not owner:
                writer.sync_files()
            self.accelerator.wait_for_everyone()
            if owner:
                self._publishing = writer, self._publisher.submit(self._publish, writer, staging.pop_all())
        if owner and not writer.finite:
            self.note(f"checkpoint-{writer.step} has infinite or NaN values: `--resume auto` will not use it")
        if not self.publish_in_background:
            self.finish_checkpoint()

    def _publish(self, writer: CheckpointWriter, staging: ExitStack) -> None:
        with staging:
            writer.publish(world_size=self.args.world_size, resumable=not self.args.save_only_model)
        best = self.state.best_model_checkpoint  # the next save, which may change it, waits
        remove_old_checkpoints(writer.final.parent, writer.step, self.args.save_total_limit, best)

    def finish_checkpoint(self) -> None:
        """Wait until the last checkpoint is complete. Raises OSError, for example where the disk is full."""
        if self._publishing is not None:
            writer, published = self._publishing
            try:
                published.result()
            except KeyboardInterrupt:  # a second Ctrl-C stops at once
                writer.cancel()
                wait([published])  # while this process owns the run: the thread changes its directory
                raise
            finally:
                self._publishing = None

    def _state_tensors(self) -> Iterator[torch.Tensor]:
        """Trained weights, and tensors of the optimizer."""
        yield from (each.detach() for each in self.model.parameters() if each.requires_grad)
        for state in self.optimizer.state.values() if self.optimizer is not None else ():
            yield from (each for each in state.values() if isinstance(each, torch.Tensor))

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
        super()._load_best_model()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's end of a training; with ``save_total_limit`` 1 the best checkpoint is kept, and damaged ones are."""
        self.finish_checkpoint()
        self.accelerator.wait_for_everyone()  # all load the best checkpoint
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        if limit == 1 and self.args.should_save and self.state.best_model_checkpoint is not None:
            keep_only(Path(self.state.best_model_checkpoint))
        return output

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial) if self.writer is None else str(self.writer.staging)
        return folder

    # Resume

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """An evaluation that leaves the random state: a resumed run may do it at another time."""
        restore_random_state = random_state_restorer(self.args.device)
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics
        finally:
            restore_random_state()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where a resumed run has no steps left: the Trainer would train another one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.save_training_args:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: see orpo_cli.card.model_card."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a worker process of a data loader: signals are for its parent, which needs it until the step is complete."""
    interruption.ignore()
    if init is not None:
        init(worker)


@contextmanager
def explain_setting_errors(*names: str) -> Iterator[None]:
    """Context of a library call: its errors become OrpoErrors that name the settings."""
    try:
        yield
    except ImportError as error:
        raise MachineError(f"{names[0]}: {error}", remedy="Install it, or choose another.") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{' and '.join(names)}: {error}", remedy="See the library's documentation.") from error


@dataclass
class PairCollator:
    """Data collator of trl's own path: expands pairs to sequences, masks and labels, which ``pad`` (trl's collator) pads."""

    pad: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows of the dataset → a batch of trl's ORPOTrainer."""
        return self.pad([expand_pair(row) for row in rows])


class TokenizedDataset:
    """Wrapper of a tokenized dataset for ORPOTrainer.__init__, whose three ``map`` calls extract, template and tokenize."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset.select_columns([name for name in TRAINING_COLUMNS if name in dataset.column_names])

    def map(self, function: Callable[..., Any], **_: Any) -> Any:
        """Nothing until the last of the three calls; then the tokenized dataset."""
        return self.dataset if getattr(function, "__name__", "") == "tokenize_row" else self


def orpo_config(checkpoints: Path, arguments: dict[str, Any]) -> ORPOConfig:
    """TRL's arguments, with ``checkpoints`` as the folder of checkpoints."""
    return ORPOConfig(output_dir=str(checkpoints), **arguments)
