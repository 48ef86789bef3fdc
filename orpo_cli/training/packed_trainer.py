"""Trainer with the packed step: all pairs of an optimizer step go to ``orpo_cli.training.engine`` at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache

from orpo_cli.errors import MachineError, RunError
from orpo_cli.plan.plan import EnginePlan
from orpo_cli.training.engine.packed_attention import UnsupportedAttention
from orpo_cli.training.engine.packed_step import Engine, PairBatches, collate_pairs, count_sequence_tokens
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, pack
from orpo_cli.training.engine.parity_check import compare_paths, select_check_pairs
from orpo_cli.training.out_of_memory import SelectiveCheckpointing, is_out_of_memory, random_state_restorer
from orpo_cli.training.trl_trainer import PairTrainer


class PackedTrainer(PairTrainer):
    """PairTrainer whose steps are computed by ``self.engine``; by trl's own path where not ``uses_engine``.

    The data loader yields the same batches in the same order as trl's. ``get_batch_samples`` passes all pairs of a step to
    its last ``training_step`` and none to those before, so the Trainer's counts of batches stay right.
    """

    def __init__(self, *, engine: EnginePlan, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.required = engine.fast_path == "required"
        self.padding_collator: Callable[..., Any] = self.data_collator
        self.data_collator: Any = collate_pairs
        self.loss_is_scaled_for_ga = True  # the engine divides by the totals of the step
        self.parity_checked = False
        self.eval_max_tokens = engine.max_tokens_per_microbatch
        self.checkpointing = SelectiveCheckpointing(self.model)
        self.uses_engine = True  # until a parity check fails
        self.engine = Engine(
            self.model,
            self.accelerator,
            beta=self.beta,
            loss_on_prompt=self.loss_on_prompt,
            max_tokens=engine.max_tokens_per_microbatch,
            sharded=self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED),
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step, with all pairs in the last one."""
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [batch for sample in samples for batch in sample["pairs"].batches]
        moved = [PairBatches([]) for _ in samples[:-1]] + [PairBatches(batches) for _ in samples[-1:]]
        return [{"pairs": each} for each in moved], count

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of all micro-batches of the step; returns its loss. Raises RunError as PairTrainer does."""
        if "pairs" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        batches, pairs = inputs["pairs"].batches, inputs["pairs"].pairs
        self._check_parity_once(model, pairs)
        if not self.uses_engine:
            return self._trl_step(model, batches, num_items_in_batch)
        if not pairs:
            return torch.zeros((), device=self.args.device)
        self.step_rows.extend(pair.row for pair in pairs)
        self.tokens_seen += count_sequence_tokens(pairs)
        self.engine.start_step(pairs)
        loss = self._retry_out_of_memory(lambda: self._packed_step(model, pairs, num_items_in_batch))
        self.store_metrics(self.engine.metrics(), train_eval="train")
        return self._check_finite(loss, self.step_rows)

    def _trl_step(self, model: Any, batches: list[list[TokenPair]], num_items_in_batch: Any) -> torch.Tensor:
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, 1):
            with self._sync_gradients(model, last=number == len(batches)):
                loss = loss + super().training_step(model, self._pad_for_trl(batch), num_items_in_batch)
        return loss

    def _packed_step(self, model: Any, pairs: list[TokenPair], num_items_in_batch: Any) -> torch.Tensor:
        loss = torch.zeros((), device=self.args.device)
        micro_batches = self.engine.micro_batches(pairs)
        for number, batch in enumerate(micro_batches, 1):
            self.current, self.number, self.syncs = batch, number, number == len(micro_batches)
            batch = batch.to(self.args.device)
            checkpointing = self.checkpointing.applied(batch.num_tokens)
            with self.engine.patched_model(batch), checkpointing, self._sync_gradients(model, last=self.syncs):
                inputs = {"micro_batch": batch}
                loss = loss + super(PairTrainer, self).training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """A micro-batch's part of the loss, times the number of processes, over which gradients are averaged; or trl's loss."""
        if "micro_batch" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._autocast():
            return self.engine.loss_share(model, inputs["micro_batch"]) * self.accelerator.num_processes

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """One evaluation batch, as trl's: loss and metrics are those of its own pairs."""
        pairs = inputs["pairs"].pairs
        self._check_parity_once(model, pairs)
        if not self.uses_engine:
            return super().prediction_step(model, self._pad_for_trl(pairs), prediction_loss_only, ignore_keys)
        self.engine.start_step(pairs)
        loss = self._retry_out_of_memory(lambda: self._evaluate_batch(model, pairs))
        metrics = {f"eval_{name}": value for name, value in self.engine.metrics().items()}
        self.store_metrics(metrics, train_eval="eval")
        return loss, None, None

    def _evaluate_batch(self, model: Any, pairs: list[TokenPair]) -> torch.Tensor:
        loss = torch.zeros((), device=self.args.device)
        with torch.no_grad(), self._autocast():
            for number, batch in enumerate(self.engine.micro_batches(pairs, self.eval_max_tokens), 1):
                self.current, self.number, self.syncs = batch, number, False
                batch = batch.to(self.args.device)
                with self.engine.patched_model(batch):
                    loss = loss + self.engine.loss_share(model, batch) * self.accelerator.num_processes
        return loss

    # Out of memory

    def _retry_out_of_memory(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """``compute()``, repeated from the same state with less memory where it runs out. Raises MachineError at the end.

        In this order: checkpoint large micro-batches, try again with the memory of the failed try freed (both leave the
        result bit-identical), then halve the micro-batches, which changes the order of sums.
        """
        restore_random_state = random_state_restorer(self.args.device)
        retried: set[int] = set()  # micro-batches that were tried again without another change
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                change = None
                if self._can_restart_step():
                    change = self._checkpoint_large_micro_batches()
                    if change is None and self.number not in retried:
                        change = "the memory of the failed try is free now"
                        retried.add(self.number)
                    elif change is None:
                        change = self._halve_micro_batches()
                        retried.clear()
                if change is None:
                    raise self._out_of_memory_error() from error
            self.model.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)  # after the except block: the error's frames refer to tensors
            restore_random_state()
            self.note(
                f"out of memory in step {self.state.global_step + 1}: {change}, and the step restarts from its state"
            )

    def _can_restart_step(self) -> bool:
        """Other processes may wait for the gradients of a micro-batch that synchronizes, and with FSDP for every layer."""
        alone = self.accelerator.distributed_type == DistributedType.NO
        sharded = self.accelerator.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if not alone and (sharded or self.syncs):
            return False
        return not self.args.optim.endswith("_layerwise")  # has already changed weights in this step

    def _checkpoint_large_micro_batches(self) -> str | None:
        """Enable checkpointing for micro-batches of this size, for the rest of the run; None where it is enabled already."""
        if not (self.model.training and self.checkpointing.enable_for(self.current.num_tokens)):
            return None
        threshold = int(self.checkpointing.threshold)
        return (
            f"activation checkpointing of micro-batches with over {threshold} tokens from now on, which leaves the result "
            f"bit-identical (engine.max_tokens_per_microbatch: {threshold} is faster, and changes its rounding)"
        )

    def _halve_micro_batches(self) -> str | None:
        """Halve the tokens of micro-batches for the rest of the run; None for a single pair."""
        if self.current.num_pairs == 1:
            return None
        if not self.model.training:
            self.eval_max_tokens = min(self.eval_max_tokens, self.current.num_tokens) // 2
            return f"micro-batches of the evaluation have at most {self.eval_max_tokens} tokens from now on"
        self.engine.max_tokens = min(self.engine.max_tokens, self.current.num_tokens) // 2
        self.checkpointing.threshold = min(self.checkpointing.threshold, self.engine.max_tokens // 2)
        return f"micro-batches have at most {self.engine.max_tokens} tokens from now on"

    def _out_of_memory_error(self) -> MachineError:
        pairs = "a pair" if self.current.num_pairs == 1 else f"{self.current.num_pairs} pairs"
        return MachineError(
            f"out of memory in step {self.state.global_step + 1}, with {pairs} of {self.current.num_tokens} tokens in total.",
            remedy="In this order: gradient_checkpointing: true, a lower max_length, a LoRA adapter, the base in 4 bits.",
        )

    # Parity check

    def _check_parity_once(self, model: Any, pairs: list[TokenPair]) -> None:
        """Compute a few short pairs by both paths; leave the fast path where they differ. Raises RunError if it is required."""
        if self.parity_checked or not pairs:
            return
        self.parity_checked = True
        reason = self._parity_failure(model, pairs)
        if self.accelerator.num_processes > 1:  # all processes leave it together, since a step sums over all of them
            failed = torch.tensor(0 if reason is None else 1, device=self.accelerator.device)
            if self.accelerator.reduce(failed, "sum") and reason is None:
                reason = "it gave another result in another process"
        if reason is not None:
            self._leave_fast_path(reason)

    def _parity_failure(self, model: Any, pairs: list[TokenPair]) -> str | None:
        unwrapped = self.accelerator.unwrap_model(model)
        checked = select_check_pairs(pairs, unwrapped.config.get_text_config().vocab_size)
        batch = pack(checked, self.loss_on_prompt).to(self.args.device)
        trl_inputs = self._prepare_inputs(self._pad_for_trl(checked))
        try:
            difference = compare_paths(
                unwrapped,
                lambda: self._packed_loss(unwrapped, checked, batch),
                lambda: self._trl_loss(unwrapped, trl_inputs),
                self._compute_dtype(),
            )
        except UnsupportedAttention as error:
            return str(error)
        return difference and f"on the first {len(checked)} pairs it gave another result: {difference}"

    def _packed_loss(self, model: Any, pairs: list[TokenPair], batch: MicroBatch) -> torch.Tensor:
        self.engine.start_step(pairs, across_processes=False)
        with self.engine.patched_model(batch), self._autocast():
            return self.engine.loss_share(model, batch)

    def _trl_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with self._autocast():
            return self.get_batch_loss_metrics(model, inputs, train_eval="train")[0]  # type: ignore[no-any-return]

    def _leave_fast_path(self, reason: str) -> None:
        if self.required:
            raise RunError(
                f"engine.fast_path is required, but {reason}.",
                remedy="Use auto, which takes trl's own path, and report this.",
            )
        self.note(f"trl's own path computes the steps, not the fast one: {reason}")
        self.uses_engine = False
        self.loss_is_scaled_for_ga = False

    def _pad_for_trl(self, pairs: list[TokenPair]) -> dict[str, Any]:
        columns = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
        rows = [{"row": row, **dict(zip(columns, (each.tolist() for each in ids), strict=True))} for row, *ids in pairs]
        padded: dict[str, Any] = self.padding_collator(rows)
        return padded

    def _compute_dtype(self) -> torch.dtype:
        if self.args.bf16 or self._peft_has_been_casted_to_bf16:
            return torch.bfloat16
        dtype: torch.dtype = torch.float16 if self.args.fp16 else self.accelerator.unwrap_model(self.model).dtype
        return dtype

    def _autocast(self) -> AbstractContextManager[Any]:
        """As trl does for adapters that it has cast to bfloat16."""
        return torch.autocast(self.accelerator.device.type) if self._peft_has_been_casted_to_bf16 else nullcontext()

    def _sync_gradients(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over processes once a step, in its last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(model=model)
