"""Trainer on TRL's ORPOTrainer: the only module that imports ``trl``.

TRL 1.16 is pinned, because experimental modules may change in any release; tests/parity fail when they do. Everything of the
loss is TRL's own, except:

* The pairs come tokenized from ``orpo_cli.data``: TRL maps row by row, never truncates prompts, and doubles end tokens.
* A loss or gradient that is not finite stops the run with an error that names the pairs; TRL logs 0.0 and continues.
* No model card is written into checkpoints and no telemetry is sent; ``orpo_cli.card.model_card`` writes the card.
* ``lora.loraplus_lr_ratio`` selects peft's LoRA+ optimizer.
* ``loss_on_prompt: false`` leaves the prompt out of the NLL, and ``nll_weight`` multiplies it.
* An evaluation computes what `orpo eval` computes, as means over all its pairs; TRL gives means of the means of its batches.
* Several processes compute the step of one process: ``StepSampler`` deals its pairs, ``average_gradients`` replaces torch's
  DistributedDataParallel, and metrics are means over the batches of all processes.

The trainer's evaluation, checkpoints and sharding are in ``evaluating_trainer``, ``checkpointing_trainer`` and ``parallel_trainer``.
``packed_trainer`` replaces the step by the engine's, with the same loss and gradients.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType

from orpo_cli import interruption
from orpo_cli.data.table import column_numbers
from orpo_cli.errors import RunError
from orpo_cli.estimate.batching import usable_pairs
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.checkpoint_saver import CheckpointSaver
from orpo_cli.training.checkpointing_trainer import CheckpointingTrainer
from orpo_cli.training.evaluating_trainer import EvaluatingTrainer
from orpo_cli.training.full_state import full_tensor
from orpo_cli.training.padded_batch import (
    PairCollator,
    batch_weight,
    has_different_weights,
    local_metrics,
    mean_nll,
    weighted_loss,
)
from orpo_cli.training.parallel_trainer import ParallelTrainer
from orpo_cli.training.setting_errors import explain_setting_errors
from orpo_cli.training.step_sampler import StepLayout, StepSampler, epoch_order
from orpo_cli.training.zero_config import zero_stage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental": the pin answers it
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

if TYPE_CHECKING:
    from orpo_cli.recipe.schema import FsdpConfig

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class PairTrainer(EvaluatingTrainer, CheckpointingTrainer, ParallelTrainer, ORPOTrainer):
    """ORPOTrainer on tokenized pairs.

    ``pairs_per_step``: of all processes (0: the product of their batches and gradient_accumulation_steps).
    ``loss_on_prompt``: whether the NLL covers prompt and chosen completion, as trl's does, or the completion alone.
    ``nll_weight``: factor of the NLL term; trl has none.
    ``save_training_args``: whether a checkpoint has the pickle of the arguments, which contains values that a recipe took
    from the environment. ``lora_plus``: arguments of peft's LoRA+ optimizer (arXiv 2402.12354), which gives the adapter's
    two matrices different learning rates. ``pairs_seen`` counts the pairs of this rank, ``tokens_seen`` the tokens of their
    chosen and rejected sequences without padding; ``step_rows`` has the names of the rows of the current step.
    ``eval_batch_pairs``: pairs of a batch of an evaluation; by default a batch has a limited number of tokens.
    ``packs_shares``: see ``StepLayout.packed``. ``fsdp``: settings of FSDP2 where it shards the weights; they are not sharded until
    ``train`` begins.
    """

    packs_shares = False
    uses_engine = False

    def __init__(
        self,
        *,
        pairs_per_step: int = 0,
        eval_batch_pairs: int | None = None,
        loss_on_prompt: bool = True,
        nll_weight: float = 1.0,
        save_training_args: bool = True,
        lora_plus: dict[str, float] | None = None,
        fsdp: FsdpConfig | None = None,
        deepspeed: dict[str, Any] | None = None,
        note: Callable[[str], None] = warnings.warn,
        **kwargs: Any,
    ) -> None:
        self.pairs_per_step = pairs_per_step
        self.loss_on_prompt, self.nll_weight = loss_on_prompt, nll_weight
        self.save_training_args = save_training_args
        self.lora_plus = lora_plus or {}
        self.fsdp = fsdp
        self.deepspeed_config = deepspeed
        self.zero = None  # until ``train`` begins
        self.shards_weights = fsdp is not None or zero_stage(deepspeed) == 3
        self.note = note
        self.status: Callable[..., None] = lambda *texts: None  # shows what happens besides the steps
        self.eval_batch_pairs = eval_batch_pairs
        self.tokens_seen = self.pairs_seen = 0
        self.step_rows: list[str] = []
        self.eval_scores = None
        self.report_event: Callable[..., None] = lambda name, message=None, **fields: None
        self.checkpoint_totals: Callable[[], dict[str, Any]] = dict
        self.train_sampler: StepSampler | None = None
        super().__init__(**kwargs)
        self.data_collator: Any = PairCollator(self.data_collator)
        self.padding_collator: Callable[..., Any] = self.data_collator
        processes = self.accelerator.num_processes
        if processes > 1:
            self.args.save_on_each_node = False  # all machines share the folder of checkpoints
        self.agreement = Agreement(processes, timedelta(seconds=self.args.ddp_timeout))
        self.saver = CheckpointSaver(self.args, self.agreement, note)
        plugin = self.accelerator.distributed_type in SHARDED
        self.sharded = self.shards_weights or deepspeed is not None or plugin
        self.replicated = processes > 1 and not self.sharded
        self.weighted = "weight" in self.train_dataset.column_names
        self._batches_per_process = 1.0  # of the step; a mean over processes
        self._mean_batch_weight = 1.0  # of the step's batches, of all processes

    def create_optimizer(self, model: Any = None) -> Any:
        """The plan's optimizer, with LoRA+ parameter groups where the plan has them. Raises UsageError or MachineError where the library refuses it."""
        with explain_setting_errors("training.optim", "training.optim_args"):
            if self.lora_plus and getattr(self, "optimizer", None) is None:
                from peft.optimizers import create_loraplus_optimizer

                optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
                arguments |= {"loraplus_weight_decay": self.args.weight_decay, **self.lora_plus}
                self.optimizer = create_loraplus_optimizer(self.model, optimizer_class, **arguments)
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The plan's learning-rate schedule. Raises UsageError where the library refuses it."""
        if self.zero is not None:
            optimizer = self.zero.optimizer
        if num_training_steps == 1 and self.args.get_warmup_steps(1):
            self.note("training.warmup_steps = 0: the run has one step, whose learning rate a warm-up would make 0")
            self.args.warmup_steps = 0
        with explain_setting_errors("training.lr_scheduler_type", "training.lr_scheduler_kwargs"):
            return super().create_scheduler(num_training_steps, optimizer)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader = super()._get_dataloader(*args, **kwargs)
        inner = getattr(loader, "base_dataloader", loader)  # of accelerate's wrapper, which iterates over it
        inner.worker_init_fn = partial(_init_worker, inner.worker_init_fn)
        return loader

    # Pairs of each process

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        strategy, processes = self.args.train_sampling_strategy, self.agreement.num_processes
        if strategy == "batch_rebalance" or (strategy == "group_by_length" and processes == 1):
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch_size = self.args.train_batch_size
        pairs_per_step = self.pairs_per_step or batch_size * self.args.gradient_accumulation_steps * processes
        count = usable_pairs(len(dataset), batch_size, drop_last=self.args.dataloader_drop_last)
        self.train_sampler = self._step_sampler(dataset, strategy, count, pairs_per_step, batch_size)
        return self.train_sampler

    def _step_sampler(
        self, dataset: Any, strategy: str, count: int, pairs_per_step: int, batch_size: int
    ) -> StepSampler:
        processes, lengths = self.agreement.num_processes, None
        if processes > 1:  # one process has all pairs
            lengths = column_numbers(dataset, "packed_length" if self.packs_shares else "length")
        rank = self.accelerator.process_index
        layout = StepLayout(pairs_per_step, batch_size, self.packs_shares, processes, rank)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return StepSampler(count, lengths, layout, epoch_order(dataset, strategy, seed, pairs_per_step))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step."""
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._count_batches([sample.get("weight") for sample in samples if sample.get("row")])
        return samples, count

    def _count_batches(self, weights: Sequence[Sequence[float] | None]) -> None:
        """Sum the batches of a step over the ranks. ``weights``: of the pairs of each batch of this rank, None where all are 1."""
        batches, total = self.agreement.sum([len(weights), sum(map(batch_weight, weights))])
        self._batches_per_process = batches / self.agreement.num_processes
        self._mean_batch_weight = total / batches if batches else 1.0

    # Steps

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch, or none of an empty one. Raises RunError where a loss is not finite."""
        loss = torch.zeros((), device=self.args.device)
        if inputs["row"] or self.sharded:
            batch = inputs if inputs["row"] else self._filler_batch()
            zero_pass = (
                self._sync_gradients(model, last=self.accelerator.sync_gradients) if self.zero else nullcontext()
            )
            with zero_pass:
                loss = self._train_batch(model, batch, num_items_in_batch)
        self._check_step(loss, inputs["row"])
        self._finish_gradients()
        return loss

    def _train_batch(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        self.step_rows.extend(inputs["row"])
        if inputs["row"]:
            self.pairs_seen += len(inputs["row"])
            self.tokens_seen += int(inputs["chosen_attention_mask"].sum() + inputs["rejected_attention_mask"].sum())
        if self.agreement.num_processes > 1:
            self.current_gradient_accumulation_steps = self._batches_per_process
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def _filler_batch(self) -> dict[str, Any]:
        """A batch that adds nothing: with sharded weights each rank computes as many batches as the others."""
        return {**self.padding_collator([self.train_dataset[0]]), "row": []}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """trl's loss; zero for a filler, without metrics.

        The Trainer takes the mean over the batches of a step; a factor makes it the mean weighted by ``batch_weight``.
        """
        if inputs["row"] and not self.weighted:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._autocast():
            loss, metrics = self.get_batch_loss_metrics(model, inputs, train_eval="train")
        if not inputs["row"]:
            return loss * 0
        factor = batch_weight(inputs["weight"]) / self._mean_batch_weight
        weighted = {name: value if name.startswith("logits/") else value * factor for name, value in metrics.items()}
        self.store_metrics(weighted, train_eval="train")
        return loss.to(self.args.device) * factor

    def report_out_of_memory(self, message: str) -> None:
        """Show what was changed, on rank 0, and write it to metrics.jsonl."""
        if self.is_world_process_zero():
            self.note(message)
            self.report_event("oom", message)

    def get_batch_loss_metrics(self, model: Any, batch: dict[str, Any], train_eval: Any = "train") -> Any:
        """trl's loss and metrics, of the batches of this process: another one may have fewer."""
        if has_different_weights(batch) or self.nll_weight != 1.0:
            outputs = self.concatenated_forward(model, batch)
            weights = batch.get("weight", [1.0] * len(outputs[0]))
            loss, metrics = weighted_loss(outputs, weights, self.beta, self.nll_weight)
            return loss + (self.aux_loss_coef * outputs[5] if self.aux_loss_enabled else 0), metrics
        with local_metrics(self.accelerator):
            return super().get_batch_loss_metrics(model, batch, train_eval)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """trl's log: means of the metrics of all batches since the last one."""
        if self.agreement.num_processes > 1:
            kind = "train" if "loss" in logs else "eval"
            merged: defaultdict[str, list[float]] = defaultdict(list)
            for stored in self.agreement.gather({**self._stored_metrics[kind]}):
                for name, values in stored.items():
                    merged[name] += values
            self._stored_metrics[kind] = merged
        super().log(logs, start_time)

    def _autocast(self) -> AbstractContextManager[Any]:
        """As trl does for adapters that it has cast to bfloat16."""
        return torch.autocast(self.accelerator.device.type) if self._peft_has_been_casted_to_bf16 else nullcontext()

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """trl's forward pass, with the NLL of the completion alone where ``loss_on_prompt`` is false, or a weighted one."""
        outputs: tuple[torch.Tensor, ...] = super().concatenated_forward(model, batch)
        if self.loss_on_prompt and not has_different_weights(batch):
            return outputs
        return (*outputs[:4], mean_nll(outputs[2], batch, self.loss_on_prompt), *outputs[5:])

    def _check_step(self, loss: torch.Tensor, rows: Sequence[str]) -> None:
        """Stop all ranks where the loss of one is not finite (RunError) or the last checkpoint was not saved (OSError)."""
        finite = bool(torch.isfinite(loss))
        not_finite, not_saved = self.agreement.max([not finite, self.saver.has_failed()])
        if not_saved:
            self.saver.finish_together()
        if not_finite:
            raise self._non_finite_error("loss", loss.item(), [] if finite else rows)

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm before the gradients are clipped; DeepSpeed clips them in its step."""
        return super()._clip_grad_norm(model) if self.zero is None else self.zero.gradient_norm()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if self.zero is not None:
            norm = self.zero.gradient_norm() if grad_norm is None else grad_norm
        else:
            norm = full_tensor(super()._get_grad_norm(model, grad_norm=grad_norm))
        rows, self.step_rows = self.step_rows, []
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips such steps and lowers its scale
        if norm is not None and not scaled and not torch.isfinite(torch.as_tensor(norm)):
            raise self._non_finite_error("gradient norm", float(norm), rows)
        return norm

    def _non_finite_error(self, quantity: str, value: float, rows: Sequence[str]) -> RunError:
        found = [each for each in self.agreement.gather((value, list(rows))) if each[1]]
        value, rows = found[0][0] if found else value, [row for _, each in found for row in each]
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        return RunError(
            f"step {self.state.global_step + 1}: the {quantity} is {value}; the weights of the step before are kept. Pairs: {shown}.",
            remedy="Look at these pairs, lower training.learning_rate, or train in bf16 or float32 instead of fp16.",
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: see orpo_cli.card.model_card."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a worker process of a data loader: signals are for its parent, which needs it until the step is complete."""
    interruption.ignore()
    if init is not None:
        init(worker)


def orpo_config(checkpoints: Path, arguments: dict[str, Any]) -> ORPOConfig:
    """TRL's arguments, with ``checkpoints`` as the folder of checkpoints."""
    return ORPOConfig(output_dir=str(checkpoints), **arguments)
