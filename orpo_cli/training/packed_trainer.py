"""The trainer that hands the pairs of a whole step to ``orpo_cli.training.engine``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType

from orpo_cli.errors import MachineError, RunError
from orpo_cli.plan.plan import EnginePlan
from orpo_cli.training.engine.packed_attention import UnsupportedAttention
from orpo_cli.training.engine.packed_step import Engine, PairBatches, collate_pairs, count_sequence_tokens
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, pack
from orpo_cli.training.engine.parity_check import compare_paths, select_check_pairs
from orpo_cli.training.out_of_memory import RandomState, SelectiveCheckpointing, free_memory, is_out_of_memory
from orpo_cli.training.trl_trainer import PairTrainer


class PackedTrainer(PairTrainer):
    """PairTrainer whose steps are computed by ``self.engine``; by trl's own path where that is None.

    The loader gives the same batches in the same order as trl's. ``get_batch_samples`` hands all pairs of a step to its last
    ``training_step``, and nothing to those before, so the counts that the Trainer keeps of batches stay right.
    """

    def __init__(self, *, engine: EnginePlan, note: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.note = note
        self.required = engine.fast_path == "required"
        self.padding_collator: Callable[..., Any] = self.data_collator
        self.data_collator: Any = collate_pairs
        self.loss_is_scaled_for_ga = True
        self.checked = False
        self.eval_budget = engine.max_tokens_per_microbatch
        self.checkpointing = SelectiveCheckpointing(self.model)
        self.engine: Engine | None = Engine(
            self.model,
            self.accelerator,
            beta=self.beta,
            loss_on_prompt=self.loss_on_prompt,
            max_tokens=engine.max_tokens_per_microbatch,
            sharded=self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED),
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step; all of their pairs are in the last."""
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        whole = [batch for sample in samples for batch in sample["pairs"].batches]
        parts = [PairBatches([]) for _ in samples[:-1]] + [PairBatches(whole) for _ in samples[-1:]]
        return [{"pairs": part} for part in parts], count

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of all micro-batches of the step; gives its loss. Raises RunError as PairTrainer's."""
        if "pairs" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        batches, pairs = inputs["pairs"].batches, inputs["pairs"].pairs
        self._check_once(model, pairs)
        if self.engine is None:
            return self._trls_step(model, batches, num_items_in_batch)
        if not pairs:
            return torch.zeros((), device=self.args.device)
        self.step_rows.extend(pair.row for pair in pairs)
        self.tokens_seen += count_sequence_tokens(pairs)
        self.engine.start_step(pairs)
        total = self._within_memory(lambda: self._step(model, pairs, num_items_in_batch))
        self.store_metrics(self.engine.metrics(), train_eval="train")
        return self._finite(total, self.step_rows)

    def _trls_step(self, model: Any, batches: list[list[TokenPair]], num_items_in_batch: Any) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, 1):
            with self._syncing(model, last=number == len(batches)):
                total = total + super().training_step(model, self._as_trls(batch), num_items_in_batch)
        return total

    def _step(self, model: Any, pairs: list[TokenPair], num_items_in_batch: Any) -> torch.Tensor:
        assert self.engine is not None
        total = torch.zeros((), device=self.args.device)
        parts = self.engine.micro_batches(pairs)
        for number, part in enumerate(parts, 1):
            self.in_flight, self.number, self.syncs = part, number, number == len(parts)
            part = part.to(self.args.device)
            checkpointing = self.checkpointing.around(part.input_ids.shape[1])
            with self.engine.patched_model(part), checkpointing, self._syncing(model, last=self.syncs):
                total = total + super(PairTrainer, self).training_step(model, {"part": part}, num_items_in_batch)
        return total

    def _within_memory(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """``compute()``; again from the same state, keeping less, where memory runs out. Raises MachineError at the end.

        First in ways that change no bit of the result: layers are computed again in the backward pass, and what the failed try
        held is free. Then in smaller parts, whose sums are rounded in another order.
        """
        before = RandomState.now(self.args.device)
        failed: set[int] = set()  # micro-batches for which nothing was left but to try once more
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                change = None
                if self._can_start_again():
                    change = self._keeping_less()
                    if change is None and self.number not in failed:
                        change = "what the failed try held is free now"
                        failed.add(self.number)
                    elif change is None:
                        change = self._made_smaller()
                        failed.clear()
                if change is None:
                    raise self._nothing_smaller() from error
            self.model.zero_grad(set_to_none=True)
            free_memory()
            before.restore()
            self.note(
                f"out of memory in step {self.state.global_step + 1}: {change}, and the step starts again as it was"
            )

    def _can_start_again(self) -> bool:
        """Other processes may wait for gradients of a micro-batch that syncs, and FSDP's for every layer: these cannot repeat."""
        alone = self.accelerator.distributed_type == DistributedType.NO
        waiting = self.accelerator.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if not alone and (waiting or self.syncs):
            return False
        return not self.args.optim.endswith("_layerwise")  # has changed weights in this very step

    def _keeping_less(self) -> str | None:
        """Compute layers again in the backward pass, for the rest of the run; says so. None where it is done already."""
        if not (self.model.training and self.checkpointing.enable_above(self.in_flight.input_ids.shape[1])):
            return None
        above = int(self.checkpointing.above)
        return (
            f"layers of micro-batches with over {above} tokens are computed again in the backward pass (checkpointing) from now "
            f"on, which changes no bit of the result (engine.max_tokens_per_microbatch: {above} is faster, and changes its rounding)"
        )

    def _made_smaller(self) -> str | None:
        """Compute fewer pairs at once, for the rest of the run; says so. None where a pair lies alone."""
        assert self.engine is not None
        if self.in_flight.num_pairs == 1:
            return None
        if not self.model.training:
            self.eval_budget = min(self.eval_budget, self.in_flight.input_ids.shape[1]) // 2
            return f"micro-batches of the evaluation have at most {self.eval_budget} tokens from now on"
        self.engine.max_tokens = min(self.engine.max_tokens, self.in_flight.input_ids.shape[1]) // 2
        self.checkpointing.above = min(self.checkpointing.above, self.engine.max_tokens // 2)
        return f"micro-batches have at most {self.engine.max_tokens} tokens from now on"

    def _nothing_smaller(self) -> MachineError:
        part = self.in_flight
        what = "a pair" if part.num_pairs == 1 else f"{part.num_pairs} pairs"
        return MachineError(
            f"out of memory in step {self.state.global_step + 1}, with {what} of {part.input_ids.shape[1]} tokens in all.",
            remedy="In this order: gradient_checkpointing: true, a lower max_length, a LoRA adapter, the base in 4 bits.",
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of a micro-batch, times the processes, over which gradients are averaged; or trl's loss."""
        if "part" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self.engine is not None
        with self._autocast():
            return self.engine.loss_share(model, inputs["part"]) * self.accelerator.num_processes

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """One evaluation batch, as trl's: its loss and metrics are those of its own pairs."""
        pairs = inputs["pairs"].pairs
        self._check_once(model, pairs)
        if self.engine is None:
            return super().prediction_step(model, self._as_trls(pairs), prediction_loss_only, ignore_keys)
        self.engine.start_step(pairs)
        total = self._within_memory(lambda: self._evaluated(model, pairs))
        metrics = {f"eval_{name}": value for name, value in self.engine.metrics().items()}
        self.store_metrics(metrics, train_eval="eval")
        return total, None, None

    def _evaluated(self, model: Any, pairs: list[TokenPair]) -> torch.Tensor:
        assert self.engine is not None
        total = torch.zeros((), device=self.args.device)
        with torch.no_grad(), self._autocast():
            for number, part in enumerate(self.engine.micro_batches(pairs, self.eval_budget), 1):
                self.in_flight, self.number, self.syncs = part, number, False
                part = part.to(self.args.device)
                with self.engine.patched_model(part):
                    total = total + self.engine.loss_share(model, part) * self.accelerator.num_processes
        return total

    def _check_once(self, model: Any, pairs: list[TokenPair]) -> None:
        """Compute a few short pairs by both paths; leave the fast one where they differ. Raises RunError if it is required."""
        if self.checked or not pairs:
            return
        self.checked = True
        reason = self._why_left(model, pairs)
        if self.accelerator.num_processes > 1:  # they leave it together: a step has what all of them count
            left = torch.tensor(0 if reason is None else 1, device=self.accelerator.device)
            if self.accelerator.reduce(left, "sum") and reason is None:
                reason = "another process found that it gives another result"
        if reason is not None:
            self._leave(reason)

    def _why_left(self, model: Any, pairs: list[TokenPair]) -> str | None:
        bare = self.accelerator.unwrap_model(model)
        checked = select_check_pairs(pairs, bare.config.get_text_config().vocab_size)
        part = pack(checked, self.loss_on_prompt).to(self.args.device)
        theirs = self._prepare_inputs(self._as_trls(checked))
        try:
            difference = compare_paths(
                bare,
                lambda: self._alone(bare, checked, part),
                lambda: self._trls_loss(bare, theirs),
                self._computed_in(),
            )
        except UnsupportedAttention as error:
            return str(error)
        if not difference.too_large:
            return None
        return (
            f"on the first {len(checked)} pairs it gave another result: the loss differs by {difference.loss:.1e} and "
            f"the gradient by {difference.gradient:.1e}, relatively; {difference.tolerance:.0e} is allowed"
        )

    def _alone(self, model: Any, pairs: list[TokenPair], part: MicroBatch) -> torch.Tensor:
        assert self.engine is not None
        self.engine.start_step(pairs, across_processes=False)
        with self.engine.patched_model(part), self._autocast():
            return self.engine.loss_share(model, part)

    def _trls_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with self._autocast():
            loss: torch.Tensor = self.get_batch_loss_metrics(model, inputs, train_eval="train")[0]
        return loss

    def _leave(self, reason: str) -> None:
        if self.required:
            raise RunError(
                f"engine.fast_path is required, but {reason}.",
                remedy="Use auto, which takes trl's own path, and report this.",
            )
        self.note(f"trl's own path computes the steps, not the fast one: {reason}")
        self.engine = None
        self.loss_is_scaled_for_ga = False

    def _as_trls(self, pairs: list[TokenPair]) -> dict[str, Any]:
        """Pairs as trl's collator pads them."""
        columns = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
        rows = [
            {"row": row, **dict(zip(columns, (ids.tolist() for ids in parts), strict=True))} for row, *parts in pairs
        ]
        padded: dict[str, Any] = self.padding_collator(rows)
        return padded

    def _computed_in(self) -> torch.dtype:
        if self.args.bf16 or self._peft_has_been_casted_to_bf16:
            return torch.bfloat16
        dtype: torch.dtype = torch.float16 if self.args.fp16 else self.accelerator.unwrap_model(self.model).dtype
        return dtype

    def _autocast(self) -> AbstractContextManager[Any]:
        """As trl does for adapters that it has cast to bfloat16."""
        return torch.autocast(self.accelerator.device.type) if self._peft_has_been_casted_to_bf16 else nullcontext()

    def _syncing(self, model: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over processes once a step."""
        context: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(model=model)
        return context
