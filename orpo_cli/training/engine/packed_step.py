"""Packed ORPO step: one optimizer step, or one evaluation batch, as micro-batches of packed pairs.

The means of the loss are taken over all pairs of the step and of all processes, so the split into micro-batches changes
nothing but the order of sums. trl's ORPOTrainer takes the mean of each batch instead, and the mean of these means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from orpo_cli.training.agreement import Agreement
from orpo_cli.training.engine import orpo_loss
from orpo_cli.training.engine.compiled_kernels import compile_rotary_functions, use_rotary_functions
from orpo_cli.training.engine.fused_lora import fused_lora_forwards
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.fused_rotary import fuse_rotary_functions
from orpo_cli.training.engine.lm_head import (
    HeadOutput,
    LogitTransform,
    logit_transform,
    patched_lm_head,
    use_packed_head,
)
from orpo_cli.training.engine.lora_groups import LoraGroups
from orpo_cli.training.engine.packed_attention import attend_within, attention_configs, use_packed_attention
from orpo_cli.training.engine.packing import (
    MicroBatch,
    TokenPair,
    count_nll_tokens,
    pack,
    packed_length,
    split_into_groups,
    token_pair,
)
from orpo_cli.training.engine.recompute import recompute_in_backward


@dataclass
class PairBatch:
    """Pairs of a batch from the data loader, or of a step; accelerate leaves a type that it does not know unchanged."""

    pairs: list[TokenPair]


def collate_pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, PairBatch]:
    """Data collator without padding: rows of the dataset, possibly none, as ``TokenPair``."""
    return {"pairs": PairBatch([token_pair(row) for row in rows])}


class _Share(NamedTuple):
    """What a micro-batch adds to the metrics of its step."""

    metric_sums: torch.Tensor
    logit_sums: torch.Tensor | None
    chosen_inputs: int
    rejected_inputs: int


class Engine:
    """Computes the loss of a step, micro-batch by micro-batch, and collects its metrics.

    ``model`` is the model without wrappers; ``max_tokens`` bounds the tokens of a micro-batch. With ``sharded`` weights (FSDP,
    DeepSpeed) every forward pass is a collective operation, so each process runs as many micro-batches as the others. Their
    number is made up with ``filler_pair``, which adds nothing.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        *,
        beta: float,
        loss_on_prompt: bool,
        max_tokens: int,
        nll_weight: float = 1.0,
        agreement: Agreement | None = None,
        sharded: bool = False,
        filler_pair: TokenPair | None = None,
    ) -> None:
        self.head = model.get_output_embeddings()
        self.logit_transform = logit_transform(model)
        self.attention_configs = attention_configs(model)
        self.forwards: list[tuple[torch.nn.Module, Any]] = [*fused_lora_forwards(model), *fused_norms_and_gates(model)]
        self.lora_groups = LoraGroups(model, self.forwards)
        replace_rotary = compile_rotary_functions if device.type == "cuda" else fuse_rotary_functions
        self.rotary_functions = replace_rotary(model)
        self.agreement = agreement or Agreement()
        self.beta, self.nll_weight = beta, nll_weight
        self.loss_on_prompt = loss_on_prompt
        self.max_tokens = max_tokens
        self.sharded = sharded
        self.filler_pair = filler_pair
        self._totals = orpo_loss.StepTotals(0, 0)
        self._shares: dict[int, _Share] = {}  # by the number of the micro-batch

    def start_step(self, pairs: Sequence[TokenPair], across_processes: bool = True) -> None:
        """Sum the weights of the pairs and NLL tokens of a step or an evaluation batch, of all processes or of this one."""
        tokens = sum(pair.weight * count_nll_tokens(pair, self.loss_on_prompt) for pair in pairs)
        sums = [tokens, sum(pair.weight for pair in pairs)]
        self._totals = orpo_loss.StepTotals(*(self.agreement.sum(sums) if across_processes else sums))

    def micro_batches(self, pairs: Sequence[TokenPair], max_tokens: int | None = None) -> list[MicroBatch]:
        """The pairs given to ``start_step``, packed into micro-batches of ``max_tokens`` (the engine's by default).

        Resets the metrics.
        """
        groups = split_into_groups(pairs, self.max_tokens if max_tokens is None else max_tokens)
        batches = self.pack_groups(pairs, groups)
        if self.sharded and (missing := int(self.agreement.max([len(batches)])[0]) - len(batches)):
            pair = min(pairs, key=packed_length) if pairs else self.filler_pair
            assert pair is not None
            batches += [replace(pack([pair], self.loss_on_prompt), in_loss=False)] * missing
        return batches

    def pack_groups(self, pairs: Sequence[TokenPair], groups: Iterable[Sequence[int]]) -> list[MicroBatch]:
        """A micro-batch of each group of indices, with its number. Resets the metrics."""
        self._shares = {}
        packed = (pack([pairs[index] for index in group], self.loss_on_prompt) for group in groups)
        return [replace(batch, number=number) for number, batch in enumerate(packed)]

    @contextmanager
    def patched_model(self, batch: MicroBatch, *, gradients: bool = True) -> Iterator[None]:
        """Context of forward and backward of a micro-batch: packed attention and fused functions in the model's layers.

        Without ``gradients``, layers add their adapters to a copy of their weights where that is faster.
        """
        with self.patched_layers(gradients=gradients), attend_within(batch):
            yield

    @contextmanager
    def patched_thread(self, batch: MicroBatch) -> Iterator[None]:
        """The part of ``patched_model`` that each of several threads has for itself, within ``patched_layers``."""
        try:
            with attend_within(batch):
                yield
        finally:
            self.lora_groups.release()

    @contextmanager
    def patched_layers(self, *, gradients: bool = True) -> Iterator[None]:
        """The part of ``patched_model`` that is the same for all micro-batches."""
        with (
            use_packed_attention(self.attention_configs),
            patched_forwards(self.forwards),
            self.lora_groups.shared(merge=not gradients),
            use_rotary_functions(self.rotary_functions),
            use_packed_head(self.head, self.logit_transform),
        ):
            yield

    def loss_share(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """The part of the step's loss that ``batch`` contributes; ``model`` may be wrapped. Within ``patched_model``."""
        output = forward_packed(model, self.head, self.logit_transform, batch)
        loss, metric_sums = orpo_loss.loss_share(output.log_probs, batch, self._totals, self.beta, self.nll_weight)
        if not batch.in_loss:
            return loss * 0
        num_rejected_inputs = len(batch.input_positions) - batch.num_chosen_inputs
        self._shares[batch.number] = _Share(
            metric_sums, output.logit_sums, batch.num_chosen_inputs, num_rejected_inputs
        )
        return loss

    def metrics(self, across_processes: bool = True) -> dict[str, float]:
        """The metrics since ``start_step``, under trl's names. Synchronizes with the device, once."""
        return {name: value for name, (value, _) in self.weighted_metrics(across_processes).items()}

    def weighted_metrics(self, across_processes: bool = True) -> dict[str, tuple[float, float]]:
        """The metrics, each with the sum of the weights over which it is a mean: by default a number of pairs or tokens."""
        sums = self._local_sums()
        if across_processes:
            sums = self.agreement.sum(sums)
        *metric_sums, chosen, rejected, chosen_inputs, rejected_inputs, without_logits = sums
        pairs = self._totals.num_pairs
        means = orpo_loss.step_metrics(metric_sums, self._totals, self.beta)
        weighted: dict[str, tuple[float, float]] = {name: (value, pairs) for name, value in means.items()}
        weighted["nll_loss"] = means["nll_loss"], self._totals.nll_tokens
        if not without_logits:
            weighted["logits/chosen"] = chosen / max(1, chosen_inputs), chosen_inputs
            weighted["logits/rejected"] = rejected / max(1, rejected_inputs), rejected_inputs
        return weighted

    def _local_sums(self) -> list[float]:
        """Sums of this process: ``METRIC_SUMS``, logits and inputs of chosen and rejected, batches without logits."""
        if not self._shares:
            return [0.0] * (len(orpo_loss.METRIC_SUMS) + 5)
        shares = [self._shares[number] for number in sorted(self._shares)]  # threads finish in any order
        sums = torch.stack([each.metric_sums for each in shares]).sum(0)
        logit_sums = [each.logit_sums for each in shares if each.logit_sums is not None]
        if len(logit_sums) < len(shares):
            return [*sums.tolist(), 0.0, 0.0, 0.0, 0.0, 1.0]
        inputs = torch.tensor([[each.chosen_inputs, each.rejected_inputs] for each in shares], dtype=torch.float64)
        sums = torch.cat((sums, torch.stack(logit_sums).sum(0), inputs.sum(0).to(sums.device)))
        return [*sums.tolist(), 0.0]


def forward_packed(model: Any, head: torch.nn.Module, transform: LogitTransform, batch: MicroBatch) -> HeadOutput:
    """Forward pass of ``batch``, which is on the model's device; the model's layers are patched.

    The log-probabilities get a part of the model's output that is zero: sharded weights are gathered for the backward pass
    by hooks on the outputs of the head and of the model, which run only where the loss depends on these outputs.
    """
    with patched_lm_head(head, transform, batch) as output, recompute_in_backward():
        outputs = model(
            input_ids=batch.input_ids,
            attention_mask=torch.ones_like(batch.input_ids),  # without one, some models derive it from position_ids
            position_ids=batch.position_ids,
            use_cache=False,
        )
    output.log_probs = output.log_probs + 0.0 * outputs.logits[0, :, 0]
    return output


@contextmanager
def patched_forwards(forwards: Iterable[tuple[torch.nn.Module, Any]]) -> Iterator[None]:
    """Context of forward and backward (where checkpointed layers run again): modules use the given forward functions."""
    forwards = list(forwards)
    for module, forward in forwards:
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.__dict__["forward"]


def count_sequence_tokens(pairs: Iterable[TokenPair]) -> int:
    """Tokens of chosen and rejected sequences, as trl counts them: each with its prompt."""
    return sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
