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

``packed_trainer`` replaces the step by the engine's, with the same loss and gradients.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache
from torch.distributed.fsdp import FSDPModule
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from orpo_cli import interruption
from orpo_cli.checkpoint_manifest import CheckpointDamaged, check_files
from orpo_cli.errors import MachineError, RunError, UsageError
from orpo_cli.estimate.batching import usable_pairs
from orpo_cli.evaluation.metrics import accuracies_by_length, preference_metrics
from orpo_cli.evaluation.preference_scores import PairScores, PairScoring, mixed_precision
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.checkpoint_saver import CheckpointSaver
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.training.gradient_sum import average_gradients, broadcast_weights
from orpo_cli.training.out_of_memory import is_out_of_memory
from orpo_cli.training.padded_batch import (
    PairCollator,
    batch_weight,
    has_different_weights,
    local_metrics,
    mean_nll,
    weighted_loss,
)
from orpo_cli.training.random_state import (
    draws_dropout,
    load_random_state,
    random_state_restorer,
    save_random_state,
    seed_process,
)
from orpo_cli.training.retention import keep_only
from orpo_cli.training.schedule_callback import evaluation_status
from orpo_cli.training.sharding import deferred_reduction, make_mesh, reshard, shard_model
from orpo_cli.training.step_sampler import StepLayout, StepSampler, epoch_order
from orpo_cli.training.trained_totals import TOTALS_FILE
from orpo_cli.training.whole_state import (
    gather_optimizer,
    gather_weights,
    loading_whole_weights,
    scatter_optimizer,
    whole_tensor,
)
from orpo_cli.training.zero import Zero, ZeroSettings, zero_stage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "experimental": the pin answers it
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

if TYPE_CHECKING:
    from orpo_cli.recipe.schema import FsdpConfig

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


class PairTrainer(ORPOTrainer):
    """ORPOTrainer on tokenized pairs.

    ``pairs_per_step``: of all processes (0: the product of their batches and gradient_accumulation_steps).
    ``loss_on_prompt``: whether the NLL covers prompt and chosen completion, as trl's does, or the completion alone.
    ``nll_weight``: factor of the NLL term; trl has none.
    ``save_training_args``: whether a checkpoint has the pickle of the arguments, which contains values that a recipe took
    from the environment. ``lora_plus``: arguments of peft's LoRA+ optimizer (arXiv 2402.12354), which gives the adapter's
    two matrices different learning rates. ``pairs_seen`` counts the pairs of this rank, ``tokens_seen`` the tokens of their
    chosen and rejected sequences without padding; ``step_rows`` has the names of the rows of the current step.
    ``eval_batch_pairs``: pairs of a batch of an evaluation; by default a batch has a limited number of tokens. ``packs_shares``: see ``StepLayout.packed``. ``fsdp``: settings
    of FSDP2 where it shards the weights; they are whole until ``train`` begins.
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
        self.zero: Zero | None = None  # until ``train`` begins
        self.shards_weights = fsdp is not None or zero_stage(deepspeed) == 3
        self.note = note
        self.status: Callable[[str], None] = lambda text: None  # shows what happens besides the steps
        self.eval_batch_pairs = eval_batch_pairs
        self.tokens_seen = self.pairs_seen = 0
        self.step_rows: list[str] = []
        self.eval_scores: PairScores | None = None  # of the last evaluation
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
                self.optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
                    self.model, optimizer_class, **arguments
                )
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The plan's learning-rate schedule. Raises UsageError where the library refuses it."""
        if self.zero is not None:
            optimizer = self.zero.optimizer
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
            lengths = list(dataset["packed_length" if self.packs_shares else "length"])
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

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """The Trainer's preparation. The model is not wrapped: FSDP2 shards it in place, and replicas need nothing."""
        if self.agreement.num_processes > 1:  # dropout masks differ between processes
            seed_process(self.args.seed, 0, self.accelerator.process_index)
        if self.fsdp is not None:
            self._shard_model(self.fsdp)
        owned = self.replicated or self.fsdp is not None or self.deepspeed_config is not None
        self.is_distributed_loading_by_transformers = owned
        self._resumes = resume_from_checkpoint is not None
        try:
            model, dataloader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        finally:
            self.is_distributed_loading_by_transformers = False
        if self.zero is not None:
            model = self.model_wrapped = self.zero.model
        return model, dataloader

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Called when model and optimizer are ready for the ranks."""
        if self.replicated:
            broadcast_weights(model.parameters())
        if self.deepspeed_config is not None:
            self._start_zero(self.deepspeed_config)

    def _start_zero(self, config: dict[str, Any]) -> None:
        settings = ZeroSettings(
            config=config,
            batch_size=self.args.train_batch_size,
            max_grad_norm=self.args.max_grad_norm,
            bf16=self.args.bf16,
            fp16=self.args.fp16,
            device=self.args.device,
            resumed=self._resumes,
        )
        accelerated: Any = self.optimizer
        with explain_setting_errors("launch.deepspeed_config"):
            zero = self.zero = Zero(self.model, accelerated.optimizer, settings)
        self.optimizer = zero  # type: ignore[assignment]
        self.accelerator.backward = lambda loss, **_: zero.backward(loss)
        self.accelerator.no_sync = lambda model: nullcontext()

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Nothing with sharded weights: a layer is moved when it is sharded, since the device may not have memory for all."""
        if not self.shards_weights:
            super()._move_model_to_device(model, device)

    def _shard_model(self, config: FsdpConfig) -> None:
        if isinstance(self.model, FSDPModule):
            return
        if _has_adapter(self.model) and self.agreement.num_processes > 1:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(self.args.device)
            broadcast_weights(self.model.parameters())  # a random adapter may differ
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        shard_model(self.model, make_mesh(self.args.device), config, dtype)

    def _sync_gradients(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Context of a backward pass; ``last`` of a step. FSDP2 averages the gradients of an adapter once a step.

        With full weights it does so after every pass, because gradients that are not sharded need the memory of all weights.
        """
        if self.zero is not None:
            return self.zero.pass_of_step(last=last)
        if last or not self.sharded:
            return nullcontext()
        if self.fsdp is None:
            return self.accelerator.no_sync(model=model)  # type: ignore[no-any-return]
        return deferred_reduction(model) if _has_adapter(self.model) else nullcontext()

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

    def _finish_gradients(self) -> None:
        """After the last batch of a step: the mean over ranks, since each rank's loss is times their number."""
        if self.replicated and self.accelerator.sync_gradients:
            average_gradients(self.model.parameters(), self.agreement)

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

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluation of all pairs as `orpo eval` does it, with the same code and the same batches, which the ranks share."""
        self.model.eval()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "eval", None)):  # a schedule-free optimizer has other weights in training
            optimizer.eval()
        self.eval_scores = scores = self._score_pairs(dataloader.dataset)
        metrics = preference_metrics(scores, self.beta)
        metrics["loss"] = self.nll_weight * metrics["nll_loss"] - self.beta * metrics["log_odds_ratio"]
        metrics |= {"logits/chosen": scores.logits_chosen, "logits/rejected": scores.logits_rejected}
        metrics |= {"pairs": len(scores.chosen), **accuracies_by_length(scores)}
        if self.fsdp is not None:
            reshard(self.model)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=len(scores.chosen))

    def _score_pairs(self, dataset: Any) -> PairScores:
        """The scores of all pairs, of which each rank computes some batches."""
        rank, processes = self.accelerator.process_index, self.agreement.num_processes
        scoring = self._pair_scoring([dataset[at] for at in range(len(dataset))])
        size = None if self.eval_batch_pairs is None else 2 * self.eval_batch_pairs
        batches = scoring.batches(self.model, self.args.device, size)
        for start in range(0, len(batches), processes):
            mine = batches[start + rank : start + rank + 1]
            if mine:
                self._score_batch(scoring, mine[0])
            elif self.sharded:  # every rank takes part in a forward pass
                self._score_batch(scoring, batches[-1], counted=False)
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if processes > 1:
            shape = scoring.values.shape
            summed = self.agreement.sum(scoring.values.flatten().tolist())
            scoring.values = torch.tensor(summed, dtype=torch.float64).reshape(shape)
        return scoring.result()

    def _pair_scoring(self, rows: list[dict[str, Any]]) -> PairScoring:
        return PairScoring(rows, loss_on_prompt=self.loss_on_prompt)

    def _score_batch(self, scoring: PairScoring, batch: list[Any], *, counted: bool = True) -> None:
        """Compute a batch, or its halves where the memory is used up even after that of the failed try is freed."""
        parts, retried = [batch], False
        while parts:
            try:
                with mixed_precision(self.args.device, bf16=self.args.bf16, fp16=self.args.fp16):
                    scoring.score(self.model, parts[0], self.args.device, counted=counted)
            except (RuntimeError, MemoryError) as error:
                # With sharded weights other processes wait for every layer.
                if not is_out_of_memory(error) or self.sharded or (retried and len(parts[0]) == 1):
                    raise
            else:
                del parts[0]
                continue
            clear_device_cache(garbage_collection=True)
            change = "the memory of the failed try is free now"
            if retried:
                half = len(parts[0]) // 2
                parts[:1] = parts[0][:half], parts[0][half:]
                change = f"the batch is divided into parts of {half} and {len(parts[1])}"
            retried = True
            self.report_out_of_memory(f"out of memory in the evaluation at step {self.state.global_step}: {change}")

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
            norm = whole_tensor(super()._get_grad_norm(model, grad_norm=grad_norm))
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

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, written to a staging folder. A thread publishes it when it is complete."""

        totals = self.checkpoint_totals()

        def write(writer: CheckpointWriter) -> str | None:
            super(PairTrainer, self)._save_checkpoint(model, trial)
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
        with loading_whole_weights() if self.zero is None else self.zero.loading_whole_weights():
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

    # Resume

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """An evaluation that leaves the random state: a resumed run may do it at another time."""
        restore_random_state = random_state_restorer(self.args.device)
        self.status(evaluation_status(self.state.global_step))
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics
        finally:
            restore_random_state()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where a resumed run has no steps left: the Trainer would train another one."""
        if self.train_sampler is not None:  # the Trainer does not find it behind the first batches that are left out
            self.train_sampler.set_epoch(kwargs["epoch"])
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def gather_weights(self, *, save_embedding_layers: bool | str = "auto") -> dict[str, torch.Tensor] | None:
        """What ``save_pretrained`` gets as ``state_dict``, on rank 0; None where the model has whole weights. All ranks call it."""
        if self.fsdp is None and self.zero is None:
            return None
        whole = whole_tensor if self.zero is None else self.zero.whole_weight
        return gather_weights(self.model, self.agreement, whole, save_embedding_layers=save_embedding_layers)

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
            if not self.save_training_args:
                (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

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

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: see orpo_cli.card.model_card."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


def _has_adapter(model: Any) -> bool:
    return hasattr(model, "peft_config")


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


def orpo_config(checkpoints: Path, arguments: dict[str, Any]) -> ORPOConfig:
    """TRL's arguments, with ``checkpoints`` as the folder of checkpoints."""
    return ORPOConfig(output_dir=str(checkpoints), **arguments)
