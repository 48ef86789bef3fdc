"""Trainer with the packed step: all pairs of an optimizer step go to ``orpo_cli.training.engine`` at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache

from orpo_cli.errors import MachineError, RunError
from orpo_cli.evaluation.preference_scores import PairScoring
from orpo_cli.planning.launch import steps_in_backward
from orpo_cli.planning.plan import TOKEN_BUDGET, EnginePlan
from orpo_cli.training.engine.packed_attention import UnsupportedAttention
from orpo_cli.training.engine.packed_step import Engine, PairBatch, collate_pairs, count_sequence_tokens
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, pack, packed_length, token_pair
from orpo_cli.training.engine.parity_check import compare_paths, select_check_pairs
from orpo_cli.training.engine.step_threads import FailedShare, StepThreads, share_step, suits_threads
from orpo_cli.training.out_of_memory import SelectiveCheckpointing, is_out_of_memory
from orpo_cli.training.packed_scoring import PackedScoring
from orpo_cli.training.random_state import random_state_restorer
from orpo_cli.training.schedule_callback import evaluation_status
from orpo_cli.training.trl_trainer import PairTrainer

T = TypeVar("T")


class FailedMicroBatch(NamedTuple):
    """Micro-batch that ran out of memory: its rank, its number in the step, and its size."""

    rank: int
    number: int
    num_tokens: int
    num_pairs: int


class PackedTrainer(PairTrainer):
    """PairTrainer whose steps are computed by ``self.engine``; by trl's own path where not ``uses_engine``.

    ``get_batch_samples`` passes all pairs of a step to its last ``training_step`` and none to those before, so the Trainer's
    counts of batches stay right. With several processes a process has the pairs that ``StepSampler`` deals to it, possibly
    none, and takes part in what all processes do together: totals, votes, and the mean of the gradients.
    """

    packs_shares = True
    uses_engine = True  # until a parity check fails

    def __init__(self, *, engine: EnginePlan, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.required = engine.fast_path == "required"
        self.data_collator: Any = collate_pairs
        self.loss_is_scaled_for_ga = True  # the engine divides by the totals of the step
        self.parity_checked = False
        self.checkpointing = SelectiveCheckpointing(self.model)
        self.eval_max_tokens = engine.max_tokens_per_microbatch
        self.engine = Engine(
            self.model,
            self.accelerator.device,
            beta=self.beta,
            loss_on_prompt=self.loss_on_prompt,
            nll_weight=self.nll_weight,
            max_tokens=engine.max_tokens_per_microbatch,
            agreement=self.agreement,
            sharded=self.sharded,
            filler_pair=token_pair(self.train_dataset[0]) if self.sharded else None,
        )

        plain = not (self.args.bf16 or self.args.fp16 or steps_in_backward(self.args.optim))
        threads = plain and self.agreement.num_processes == 1
        self.threads = StepThreads(self.engine) if threads and suits_threads(self.model, self.args.device) else None

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step, with all pairs in the last one."""
        samples, count = super(PairTrainer, self).get_batch_samples(epoch_iterator, num_batches, device)
        pairs = [pair for sample in samples for pair in sample["pairs"].pairs]
        moved = [PairBatch([]) for _ in samples[:-1]] + [PairBatch(pairs) for _ in samples[-1:]]
        return [{"pairs": each} for each in moved], count

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of all micro-batches of the step; returns its loss. Raises RunError as PairTrainer does."""
        if "pairs" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients:  # not the last batch of the step
            return torch.zeros((), device=self.args.device)
        pairs = inputs["pairs"].pairs
        self._check_parity_once(model, pairs)
        if not self.uses_engine:
            return self._trl_step(model, pairs, num_items_in_batch)
        self.step_rows.extend(pair.row for pair in pairs)
        self.pairs_seen += len(pairs)
        self.tokens_seen += count_sequence_tokens(pairs)
        self.engine.start_step(pairs)
        loss = self._retry_out_of_memory(lambda: self._packed_step(model, pairs, num_items_in_batch))
        self.store_metrics(self.engine.metrics(), train_eval="train")
        self._check_step(loss, self.step_rows)
        self._finish_gradients()
        return loss

    def _trl_step(self, model: Any, pairs: list[TokenPair], num_items_in_batch: Any) -> torch.Tensor:
        loss = torch.zeros((), device=self.args.device)
        batches = _split(pairs, self.args.train_batch_size)
        self._count_batches([[pair.weight for pair in batch] for batch in batches])
        not_finite: list[str] = []  # rows of the first such batch
        batches += self._filler_lists(len(batches))
        for number, batch in enumerate(batches, 1):
            with self._sync_gradients(model, last=number == len(batches)):
                batch_loss = self._train_batch(model, self._pad_for_trl(batch), num_items_in_batch)
            if not not_finite and not torch.isfinite(batch_loss):
                not_finite = [pair.row for pair in batch]
            loss = loss + batch_loss
        self._check_step(loss, not_finite)
        self._finish_gradients()
        return loss

    def _packed_step(self, model: Any, pairs: list[TokenPair], num_items_in_batch: Any) -> torch.Tensor:
        if self.threads is not None and torch.get_num_threads() > 1:
            shares = share_step(pairs, self.engine.max_tokens)
            if shares is not None:
                return self._threaded_step(model, pairs, shares, self.threads)
        loss = torch.zeros((), device=self.args.device)
        micro_batches = self.engine.micro_batches(pairs)
        for number, batch in enumerate(micro_batches, 1):
            self.current, self.number, last = batch, number, number == len(micro_batches)
            batch = batch.to(self.args.device)
            checkpointing = self.checkpointing.applied(batch.num_tokens)
            with self.engine.patched_model(batch), checkpointing, self._sync_gradients(model, last=last):
                inputs = {"micro_batch": batch}
                loss = loss + super(PairTrainer, self).training_step(model, inputs, num_items_in_batch)
        return loss

    def _threaded_step(
        self, model: Any, pairs: list[TokenPair], shares: list[list[list[int]]], threads: StepThreads
    ) -> torch.Tensor:
        """The step with several micro-batches at a time, without what ``training_step`` does for other devices."""
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):
            train()
        largest = max(sum(packed_length(pairs[index]) for index in group) for share in shares for group in share)
        try:
            with self.checkpointing.applied(largest):
                return threads.compute(model, pairs, shares)
        except FailedShare as failure:
            self.current, self.number = failure.batch, failure.batch.number + 1
            raise failure.error from None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """A micro-batch's part of the loss, times the number of processes, over which gradients are averaged; or trl's loss."""
        if "micro_batch" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._autocast():
            return self.engine.loss_share(model, inputs["micro_batch"]) * self.accelerator.num_processes

    def _pair_scoring(self, rows: list[dict[str, Any]]) -> PairScoring:
        self._check_parity_once(self.model, [token_pair(row) for row in rows])
        if not self.uses_engine:
            return super()._pair_scoring(rows)
        return PackedScoring(rows, self.engine, self.eval_max_tokens, self.loss_on_prompt)

    # Out of memory

    def _retry_out_of_memory(self, compute: Callable[[], T]) -> T:
        """``compute()``, repeated from the same state with less memory where it runs out. Raises MachineError at the end.

        In this order: checkpoint large micro-batches, try again with the memory of the failed try freed (both leave the
        result bit-identical), then halve the micro-batches, which changes the order of sums. ``compute`` does not communicate
        with other processes: all of them make the same change and repeat it where one has run out of memory.
        """
        restore_random_state = random_state_restorer(self.args.device)
        retried: set[tuple[int, int]] = set()  # micro-batches that were tried again without another change
        while True:
            result, failure, cause = None, None, None
            try:
                result = compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                cause, failure = error, self._failed_micro_batch()
                if not self._can_restart_step():
                    raise self._out_of_memory_error(failure) from error
            if not self.agreement.any(failure is not None):
                return result  # type: ignore[return-value]
            failures = [each for each in self.agreement.gather(failure) if each is not None]
            change = self._reduce_memory(failures, retried)
            if change is None:
                raise self._out_of_memory_error(failures[0]) from cause
            cause = None  # its frames refer to tensors
            self.model.zero_grad(set_to_none=True)
            clear_device_cache(garbage_collection=True)
            restore_random_state()
            step = f"step {self.state.global_step + 1}{self._name_rank(failures[0])}"
            self.report_out_of_memory(f"out of memory in {step}: {change}, and the step restarts from its state")

    def _failed_micro_batch(self) -> FailedMicroBatch:
        return FailedMicroBatch(
            self.accelerator.process_index, self.number, self.current.num_tokens, self.current.num_pairs
        )

    def _reduce_memory(self, failures: list[FailedMicroBatch], retried: set[tuple[int, int]]) -> str | None:
        """Make the next change, the same in all processes; None where none is left."""
        change = self._checkpoint_large_micro_batches(failures)
        if change is not None:
            return change
        micro_batches = {(each.rank, each.number) for each in failures}
        if not micro_batches <= retried:
            retried |= micro_batches
            return "the memory of the failed try is free now"
        retried.clear()
        return self._halve_micro_batches(failures)

    def _can_restart_step(self) -> bool:
        """With sharded weights other processes wait for every layer."""
        layerwise = self.args.optim.endswith("_layerwise")  # has already changed weights in this step
        return not (self.sharded or layerwise)

    def _checkpoint_large_micro_batches(self, failures: list[FailedMicroBatch]) -> str | None:
        """Enable checkpointing for micro-batches of this size, for the rest of the run; None where it is enabled already."""
        if not self.checkpointing.enable_for(min(each.num_tokens for each in failures)):
            return None
        threshold = int(self.checkpointing.threshold)
        return (
            f"activation checkpointing of micro-batches with over {threshold} tokens from now on, which leaves the result "
            f"bit-identical (engine.max_tokens_per_microbatch: {threshold} is faster, and changes its rounding)"
        )

    def _halve_micro_batches(self, failures: list[FailedMicroBatch]) -> str | None:
        """Halve the tokens of micro-batches for the rest of the run; None for single pairs."""
        divisible = [each.num_tokens for each in failures if each.num_pairs > 1]
        if not divisible:
            return None
        self.engine.max_tokens = min(self.engine.max_tokens, *divisible) // 2
        self.checkpointing.threshold = min(self.checkpointing.threshold, self.engine.max_tokens // 2)
        return f"micro-batches have at most {self.engine.max_tokens} tokens from now on"

    def _name_rank(self, failure: FailedMicroBatch) -> str:
        return f" on rank {failure.rank}" if self.agreement.num_processes > 1 else ""

    def _out_of_memory_error(self, failure: FailedMicroBatch) -> MachineError:
        pairs = "a pair" if failure.num_pairs == 1 else f"{failure.num_pairs} pairs"
        step = f"step {self.state.global_step + 1}{self._name_rank(failure)}"
        if self.sharded and failure.num_pairs > 1:
            return MachineError(
                f"out of memory in {step}, with {pairs} of {failure.num_tokens} tokens in total. With sharded weights a step "
                "cannot be repeated: the other ranks are in it.",
                remedy=f"Continue with smaller micro-batches: `--resume auto --set {TOKEN_BUDGET}={failure.num_tokens // 2}`.",
            )
        return MachineError(
            f"out of memory in {step}, with {pairs} of {failure.num_tokens} tokens in total.",
            remedy="In this order: gradient_checkpointing: true, a lower max_length, a LoRA adapter, the base in 4 bits.",
        )

    # Parity check

    def _check_parity_once(self, model: Any, pairs: list[TokenPair]) -> None:
        """Compute a few short pairs by both paths; leave the fast path where they differ. Raises RunError if it is required."""
        if self.parity_checked:
            return
        self.parity_checked = True
        if self.sharded and not pairs:  # every rank takes part
            pairs = [token_pair(self.train_dataset[0])]
        self.status("comparing both paths")
        reason = self._parity_failure(model, pairs) if pairs else None
        # All processes leave it together, since a step sums over all of them.
        reasons = [each for each in self.agreement.gather(reason) if each is not None]
        if reasons:
            self._leave_fast_path(reason or f"in another process, {reasons[0]}")
        self.status("" if model.training else evaluation_status(self.state.global_step))

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
            if self.fsdp is not None:
                unwrapped.reset_iter_state()  # of the forward pass that did not end
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
        if self.is_world_process_zero():
            self.note(f"trl's own path computes the steps, not the fast one: {reason}")
        self.uses_engine = False
        self.loss_is_scaled_for_ga = False

    def _filler_lists(self, count: int) -> list[list[TokenPair]]:
        """Empty batches, with which each rank has as many as the others, where it has ``count``."""
        return [[]] * (int(self.agreement.max([count])[0]) - count) if self.sharded else []

    def _pad_for_trl(self, pairs: list[TokenPair]) -> dict[str, Any]:
        if not pairs:
            return self._filler_batch()
        columns = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
        rows = [
            {"row": row, **dict(zip(columns, (each.tolist() for each in ids), strict=True)), **self._weight(weight)}
            for row, *ids, weight in pairs
        ]
        padded: dict[str, Any] = self.padding_collator(rows)
        return padded

    def _weight(self, weight: float) -> dict[str, float]:
        return {"weight": weight} if self.weighted else {}

    def _compute_dtype(self) -> torch.dtype:
        if self.args.bf16 or self._peft_has_been_casted_to_bf16:
            return torch.bfloat16
        dtype: torch.dtype = torch.float16 if self.args.fp16 else self.accelerator.unwrap_model(self.model).dtype
        return dtype


def _split(pairs: list[TokenPair], size: int) -> list[list[TokenPair]]:
    """Batches of ``size`` pairs; the last may be smaller."""
    return [pairs[at : at + size] for at in range(0, len(pairs), size)]
