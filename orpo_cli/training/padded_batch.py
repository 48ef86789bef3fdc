"""Batches of trl's own path: pairs padded to sequences, and the loss of a batch with weights of pairs or of the NLL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid, pad

from orpo_cli.data.table import expand_pair
from orpo_cli.training.engine.orpo_loss import StepTotals, log1mexp, step_metrics

if TYPE_CHECKING:
    from datasets import Dataset

# Texts are left out: reading them from the table takes longer than reading the ids.
TRAINING_COLUMNS = (
    "row", "prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids", "length", "packed_length", "weight",
)  # fmt: skip
IGNORED = -100  # label of a token without loss


@dataclass
class PairCollator:
    """Data collator of trl's own path: expands pairs to sequences, masks and labels, which ``pad`` (trl's collator) pads."""

    pad: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows of the dataset → a batch of trl's ORPOTrainer; without rows, a batch with the key ``row`` alone."""
        return self.pad([expand_pair(row) for row in rows]) if rows else {"row": []}


class TokenizedDataset:
    """Wrapper of a tokenized dataset for ORPOTrainer.__init__, whose three ``map`` calls extract, template and tokenize."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset.select_columns([name for name in TRAINING_COLUMNS if name in dataset.column_names])

    def map(self, function: Callable[..., Any], **_: Any) -> Any:
        """Nothing until the last of the three calls; then the tokenized dataset."""
        return self.dataset if getattr(function, "__name__", "") == "tokenize_row" else self


def batch_weight(weights: Sequence[float] | None) -> float:
    """Weight of a batch in the mean over the batches of a step: the mean weight of its pairs; None: all are 1."""
    return 1.0 if weights is None else fmean(weights)


def has_different_weights(batch: Mapping[str, Any]) -> bool:
    """Whether the pairs of ``batch`` have different weights; with equal ones, trl's means are the weighted means."""
    return len(set(batch.get("weight", ()))) > 1


def mean_nll(logits: torch.Tensor, batch: Mapping[str, Any], loss_on_prompt: bool) -> torch.Tensor:
    """NLL of the chosen sequences, or completions, a token having the weight of its pair. ``logits``: (pairs, tokens - 1, vocab_size)."""
    labels = batch["chosen_labels"]
    if loss_on_prompt:
        labels = torch.where(batch["chosen_attention_mask"] == 1, batch["chosen_input_ids"], IGNORED)
    labels = pad(labels, (0, logits.shape[1] + 1 - labels.shape[1]), value=IGNORED)[:, 1:].to(logits.device)
    if not has_different_weights(batch):
        return cross_entropy(logits.flatten(0, 1), labels.flatten())
    nll = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    nll = nll.to(torch.promote_types(nll.dtype, torch.float32))
    weights = torch.tensor(batch["weight"], dtype=nll.dtype, device=nll.device)[:, None] * (labels != IGNORED)
    return (nll * weights).sum() / weights.sum()


def weighted_loss(
    outputs: Sequence[torch.Tensor], weights: Sequence[float], beta: float, nll_weight: float = 1.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss and metrics under trl's names as weighted means over the pairs of a batch.

    ``outputs`` of ``concatenated_forward``: log-probabilities of chosen and rejected, their logits, and the weighted NLL.
    """
    chosen, rejected, nll = outputs[0].float(), outputs[1].float(), outputs[4]
    weight = torch.tensor(weights, dtype=chosen.dtype, device=chosen.device)
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    ratio = logsigmoid(log_odds)
    loss = nll_weight * nll - beta * (weight * ratio).sum() / weight.sum()
    with torch.no_grad():
        sums = [(weight * each).sum() for each in (ratio, log_odds, (chosen > rejected).float(), chosen, rejected)]
        totals = StepTotals(1.0, weight.sum().item())
        metrics = step_metrics([nll.item(), *(each.item() for each in sums)], totals, beta)
    return loss, {
        **metrics,
        "logits/chosen": outputs[2].detach().mean().item(),
        "logits/rejected": outputs[3].detach().mean().item(),
    }


@contextmanager
def local_metrics(accelerator: Any) -> Iterator[None]:
    """Context in which trl takes metrics from this process alone."""
    accelerator.gather_for_metrics = lambda value: value
    try:
        yield
    finally:
        del accelerator.gather_for_metrics
