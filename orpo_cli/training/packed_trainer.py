"""The trainer that hands the pairs of a whole step to ``orpo_cli.training.engine``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from orpo_cli.errors import RunError
from orpo_cli.plan.plan import EnginePlan
from orpo_cli.training.engine.attention import Unsupported
from orpo_cli.training.engine.check import compare
from orpo_cli.training.engine.layout import MicroBatch, TokenPair, pack, size
from orpo_cli.training.engine.step import Batches, Engine, collate, sequence_tokens
from orpo_cli.training.trl_door import PairTrainer

CHECKED = 2  # pairs that both paths compute before the first step


class PackedTrainer(PairTrainer):
    """PairTrainer whose steps are computed by ``self.engine``; by trl's own path where that is None.

    The loader gives the same batches in the same order as trl's. ``get_batch_samples`` hands all pairs of a step to its last
    ``training_step``, and nothing to those before, so the counts that the Trainer keeps of batches stay right.
    """

    def __init__(self, *, engine: EnginePlan, note: Callable[[str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.note = note
        self.required = engine.fast_path == "required"
        self.padded: Callable[..., Any] = self.data_collator
        self.data_collator: Any = collate
        self.loss_is_scaled_for_ga = True
        self.checked = False
        self.engine: Engine | None = Engine(
            self.model,
            self.accelerator,
            beta=self.beta,
            loss_on_prompt=self.loss_on_prompt,
            budget=engine.max_tokens_per_microbatch,
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step; all of their pairs are in the last."""
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        whole = [batch for sample in samples for batch in sample["pairs"].batches]
        parts = [Batches([]) for _ in samples[:-1]] + [Batches(whole) for _ in samples[-1:]]
        return [{"pairs": part} for part in parts], count

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of all micro-batches of the step; gives its loss. Raises RunError as PairTrainer's."""
        if "pairs" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        batches: list[list[TokenPair]] = inputs["pairs"].batches
        total = torch.zeros((), device=self.args.device)
        pairs = inputs["pairs"].pairs
        self._check_once(model, pairs)
        if self.engine is None:
            for number, batch in enumerate(batches, 1):
                with self._syncing(model, last=number == len(batches)):
                    total = total + super().training_step(model, self._as_trls(batch), num_items_in_batch)
            return total
        if not pairs:
            return total
        self.rows_of_step.extend(pair.row for pair in pairs)
        self.tokens_seen += sequence_tokens(pairs)
        parts = self.engine.begin(pairs)
        for number, part in enumerate(parts, 1):
            part = part.to(self.args.device)
            with self.engine.running(part), self._syncing(model, last=number == len(parts)):
                total = total + super(PairTrainer, self).training_step(model, {"part": part}, num_items_in_batch)
        self.store_metrics(self.engine.metrics(), train_eval="train")
        return self._finite(total, self.rows_of_step)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of a micro-batch, times the processes, over which gradients are averaged; or trl's loss."""
        if "part" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self.engine is not None
        with self._autocast():
            return self.engine.share(model, inputs["part"]) * self.accelerator.num_processes

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """One evaluation batch, as trl's: its loss and metrics are those of its own pairs."""
        pairs = inputs["pairs"].pairs
        self._check_once(model, pairs)
        if self.engine is None:
            return super().prediction_step(model, self._as_trls(pairs), prediction_loss_only, ignore_keys)
        total = torch.zeros((), device=self.args.device)
        with torch.no_grad(), self._autocast():
            for part in self.engine.begin(pairs):
                part = part.to(self.args.device)
                with self.engine.running(part):
                    total = total + self.engine.share(model, part) * self.accelerator.num_processes
        metrics = {f"eval_{name}": value for name, value in self.engine.metrics().items()}
        self.store_metrics(metrics, train_eval="eval")
        return total, None, None

    def _check_once(self, model: Any, pairs: list[TokenPair]) -> None:
        """Compute the shortest pairs by both paths; leave the fast one where they differ. Raises RunError if it is required."""
        if self.checked or not pairs:
            return
        self.checked = True
        assert self.engine is not None
        few = sorted(pairs, key=size)[:CHECKED]
        bare = self.accelerator.unwrap_model(model)
        part = pack(few, self.loss_on_prompt).to(self.args.device)
        theirs = self._prepare_inputs(self._as_trls(few))
        try:
            difference = compare(
                bare, lambda: self._alone(bare, few, part), lambda: self._trls_loss(bare, theirs), self._computed_in()
            )
        except Unsupported as error:
            self._leave(str(error))
            return
        if difference.too_large:
            self._leave(
                f"on the first {len(few)} pairs it gave another result: the loss differs by {difference.loss:.1e} and "
                f"the gradient by {difference.gradient:.1e}, relatively; {difference.allowed:.0e} is allowed"
            )

    def _alone(self, model: Any, pairs: list[TokenPair], part: MicroBatch) -> torch.Tensor:
        assert self.engine is not None
        self.engine.begin(pairs, together=False)
        with self.engine.running(part), self._autocast():
            return self.engine.share(model, part)

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
        rows = []
        for pair in pairs:
            row: dict[str, Any] = {"row": pair.row, "prompt_input_ids": pair.prompt.tolist()}
            row["prompt_attention_mask"] = [1] * len(pair.prompt)
            for name, answer in (("chosen", pair.chosen.tolist()), ("rejected", pair.rejected.tolist())):
                row[f"{name}_input_ids"] = row["prompt_input_ids"] + answer
                row[f"{name}_attention_mask"] = [1] * len(row[f"{name}_input_ids"])
                row[f"{name}_labels"] = [-100] * len(pair.prompt) + answer
            rows.append(row)
        padded: dict[str, Any] = self.padded(rows)
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
