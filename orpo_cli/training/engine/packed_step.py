"""One optimizer step, or one evaluation batch, as micro-batches of packed pairs.

The step is the unit: its means are taken over all its pairs, of all processes, so how it is cut up changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from orpo_cli.training.engine import orpo_loss
from orpo_cli.training.engine.compiled_kernels import rotary_embeddings, rotating
from orpo_cli.training.engine.fused_lora import fused
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.lm_head import Scores, scored, shape_of
from orpo_cli.training.engine.packed_attention import configurations, shared_prefixes
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, cut, nll_tokens, pack, size, token_pair
from orpo_cli.training.engine.recompute import recompute_in_backward


@dataclass
class Batches:
    """Pairs on their way through the data loader, in a type of their own, which accelerate leaves alone.

    A batch of the loader, or all those of a step.
    """

    batches: list[list[TokenPair]]

    @property
    def pairs(self) -> list[TokenPair]:
        """All of them, in their order."""
        return [pair for batch in self.batches for pair in batch]


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Batches]:
    """The trainer's data collator: rows of the dataset as they are, without padding."""
    return {"pairs": Batches([[token_pair(row) for row in rows]])}


class Engine:
    """Computes the shares of micro-batches in a step and gathers its metrics.

    ``model`` is the model without wrappers; ``budget`` are the tokens of a micro-batch. Processes that hold ``sharded`` weights
    fetch them from each other in every pass, so each of them takes as many passes as the others.
    """

    def __init__(
        self,
        model: Any,
        accelerator: Accelerator,
        *,
        beta: float,
        loss_on_prompt: bool,
        budget: int,
        sharded: bool = False,
    ) -> None:
        self.head = model.get_output_embeddings()
        self.shape = shape_of(model)
        self.configs = configurations(model)
        self.forwards: list[tuple[torch.nn.Module, Any]] = [*fused(model), *fused_norms_and_gates(model)]
        self.rotaries = rotary_embeddings(model) if accelerator.device.type == "cuda" else []
        self.accelerator = accelerator
        self.beta = beta
        self.loss_on_prompt = loss_on_prompt
        self.budget = budget
        self.sharded = sharded
        self._totals = orpo_loss.Totals(0, 0)
        self._sums: list[torch.Tensor] = []
        self._logits: list[tuple[torch.Tensor | None, int, int]] = []

    def begin(self, pairs: Sequence[TokenPair], together: bool = True) -> None:
        """Start a step or an evaluation batch, ``together`` with the other processes or not."""
        counts = [sum(nll_tokens(pair, self.loss_on_prompt) for pair in pairs), len(pairs)]
        if together and self.accelerator.num_processes > 1:
            device = self.accelerator.device
            counts = self.accelerator.reduce(torch.tensor(counts, device=device), "sum").tolist()
        self._totals = orpo_loss.Totals(*counts)

    def parts(self, pairs: Sequence[TokenPair], budget: int | None = None) -> list[MicroBatch]:
        """The micro-batches of what ``begin`` started, under the budget as it is now, or another. Forgets those before."""
        self._sums, self._logits = [], []
        parts = [pack(group, self.loss_on_prompt) for group in cut(pairs, self.budget if budget is None else budget)]
        if self.sharded:
            counts = self.accelerator.gather(torch.tensor([len(parts)], device=self.accelerator.device))
            filler = replace(pack([min(pairs, key=size)], self.loss_on_prompt), counted=False)
            parts += [filler] * (int(counts.max()) - len(parts))
        return parts

    @contextmanager
    def running(self, batch: MicroBatch) -> Iterator[None]:
        """Around forward and backward of a micro-batch."""
        with shared_prefixes(self.configs, batch), patched_forwards(self.forwards), rotating(self.rotaries):
            yield

    def share(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """The share of ``batch`` in the loss of the step; ``model`` may be wrapped. Within ``running``."""
        scores = self.scores(model, batch)
        share, sums = orpo_loss.step_share(scores.logps, batch, self._totals, self.beta)
        if not batch.counted:
            return share * 0
        self._sums.append(sums)
        self._logits.append((scores.logits, batch.seen_chosen, len(batch.seen) - batch.seen_chosen))
        return share

    def scores(self, model: Any, batch: MicroBatch) -> Scores:
        """Forward pass of ``batch``, which lies on the model's device."""
        with scored(self.head, self.shape, batch) as scores, recompute_in_backward():
            model(
                input_ids=batch.input_ids,
                attention_mask=torch.ones_like(batch.input_ids),  # given, so that no model derives one from positions
                position_ids=batch.position_ids,
                use_cache=False,
            )
        return scores

    def metrics(self, together: bool = True) -> dict[str, float]:
        """The metrics since ``begin``, under trl's names. Waits for the device, once."""
        sums = torch.stack(self._sums).sum(0)
        logits = [each for each, _, _ in self._logits]
        seen = torch.tensor([[chosen, rejected] for _, chosen, rejected in self._logits], dtype=torch.float64).sum(0)
        if all(each is not None for each in logits):
            sums = torch.cat((sums, torch.stack(logits).sum(0), seen.to(sums.device)))  # type: ignore[arg-type]
        if together and self.accelerator.num_processes > 1:
            sums = self.accelerator.reduce(sums, "sum")
        values = sums.tolist()
        result = orpo_loss.metrics(values[: len(orpo_loss.SUMS)], self._totals, self.beta)
        if len(values) > len(orpo_loss.SUMS):
            chosen, rejected, of_chosen, of_rejected = values[len(orpo_loss.SUMS) :]
            result |= {"logits/chosen": chosen / max(1, of_chosen), "logits/rejected": rejected / max(1, of_rejected)}
        return result


@contextmanager
def patched_forwards(forwards: Iterable[tuple[torch.nn.Module, Any]]) -> Iterator[None]:
    """Let modules be computed by other functions; for forward and backward, as checkpointed layers run again there."""
    forwards = list(forwards)
    for module, forward in forwards:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.__dict__["forward"]


def sequence_tokens(pairs: Iterable[TokenPair]) -> int:
    """Tokens of chosen and rejected sequences, as trl counts them: each with its prompt."""
    return sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
