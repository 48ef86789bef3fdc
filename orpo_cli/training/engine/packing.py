"""Sequence packing of preference pairs: several pairs in one row of tokens, without padding, each shared beginning once.

The sequences of a micro-batch are a prefix tree (see ``prefix_tree``): both completions of a pair share its prompt and the
first tokens in which they are equal, and pairs that begin alike share that beginning. The last token of a completion
predicts nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from orpo_cli.estimate.batching import split_by_token_budget
from orpo_cli.training.engine.prefix_tree import (
    Branch,
    TokenIds,
    build_tree,
    is_worth_sharing,
    shared_length,
    sort_key,
)


class TokenPair(NamedTuple):
    """A preference pair as token ids, (length,) int64 each: the prompt, and both completions without it; and its weight."""

    row: str
    prompt: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class MicroBatch:
    """Packed pairs in one row of T tokens, and which positions predict what.

    ``input_ids`` and ``position_ids`` are (1, T), and ``branches`` the parts of the row. ``targets[i]`` (int64) is predicted
    at row index ``predict_positions[i]``: N predictions, each computed once, though several sequences may share it. Sequence
    2p is chosen of pair p, 2p + 1 its rejected; the log-probability of sequence s is the sum over the predictions
    ``prediction_indices[k]`` with ``sequence_ids[k] == s``. ``completion_lengths`` (2 × pairs, float64) counts the predicted
    tokens of each completion. ``nll_indices`` are the predictions whose mean is the NLL, pair by pair. ``input_positions`` are
    the row indices of the inputs of all chosen sequences, ``num_chosen_inputs`` of them, and then of all rejected ones: trl's
    mean logits are taken over these. ``pair_weights`` (pairs, float64) and ``nll_weights`` (one for each of ``nll_indices``)
    are None where all weights are 1.
    """

    branches: tuple[Branch, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predict_positions: torch.Tensor
    targets: torch.Tensor
    prediction_indices: torch.Tensor
    sequence_ids: torch.Tensor
    completion_lengths: torch.Tensor
    nll_indices: torch.Tensor
    input_positions: torch.Tensor
    num_chosen_inputs: int
    pair_weights: torch.Tensor | None = None
    nll_weights: torch.Tensor | None = None
    in_loss: bool = True  # False: a filler, computed because another process has more micro-batches
    number: int = 0  # in the step

    @property
    def num_pairs(self) -> int:
        """Pairs in the row."""
        return len(self.completion_lengths) // 2

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return self.input_ids.shape[1]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max((branch.depth + branch.length for branch in self.branches), default=0)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on ``device``."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def map_tensors(self, function: Callable[[torch.Tensor], Any]) -> MicroBatch:
        """The same with ``function`` of each tensor."""
        tensors = {name: function(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)


def token_pair(row: Mapping[str, Any]) -> TokenPair:
    """A row of the dataset (see ``orpo_cli.data.table``) as tensors."""
    columns = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
    ids = [torch.as_tensor(row[column], dtype=torch.int64) for column in columns]
    return TokenPair(row["row"], ids[0], ids[1], ids[2], row.get("weight", 1.0))


def packed_length(pair: TokenPair) -> int:
    """Tokens that a pair takes in a row, alone."""
    chosen, rejected = _inputs(pair)
    return len(chosen) + len(rejected) - shared_length(chosen, rejected)


def count_nll_tokens(pair: TokenPair, loss_on_prompt: bool) -> int:
    """Predictions of a pair that count in the NLL."""
    predicted = len(pair.chosen) - (len(pair.prompt) == 0)
    return predicted + (max(0, len(pair.prompt) - 1) if loss_on_prompt else 0)


def split_into_groups(pairs: Sequence[TokenPair], max_tokens: int) -> list[list[int]]:
    """Indices of ``pairs`` in groups of at most ``max_tokens`` tokens (a longer pair is alone), longest first. Deterministic.

    Pairs that share a beginning are in one group, as far as they fit.
    """
    families = token_families(pairs, max_tokens)
    groups = split_by_token_budget([size for size, _ in families], max_tokens)
    return [[index for number in group for index in families[number][1]] for group in groups]


def pack(pairs: Sequence[TokenPair], loss_on_prompt: bool) -> MicroBatch:
    """Pack ``pairs`` into one row."""
    tree = build_tree([_inputs(pair) for pair in pairs])
    rows, targets, counted = (
        [],
        [],
        [],
    )  # of all predictions: those of chosen and its prompt, and of rejected, pair by pair
    for number, pair in enumerate(pairs):
        first = max(0, len(pair.prompt) - 1)  # input that predicts the first predicted token of a completion
        for sequence, completion in enumerate((pair.chosen, pair.rejected)):
            start = 0 if sequence == 0 and loss_on_prompt else first
            rows.append(tree.row_indices[2 * number + sequence][start:])
            targets.append(torch.cat((pair.prompt, completion)).numpy()[start + 1 :])
            counted.append(len(rows[-1]) - (first - start))
    lengths = np.array([len(each) for each in rows])
    all_rows, all_targets = np.concatenate(rows), np.concatenate(targets)
    # A prediction is a row index and a target; equal ones are computed once.
    vocabulary = int(all_targets.max(initial=0)) + 1
    unique, inverse = np.unique(all_rows * vocabulary + all_targets, return_inverse=True)
    ends = lengths.cumsum()
    predictions = np.split(inverse, ends[:-1])
    tensors: dict[str, Any] = {
        "input_ids": tree.token_ids[None],
        "position_ids": np.concatenate([np.arange(each.length) + each.depth for each in tree.branches])[None],
        "predict_positions": unique // vocabulary,
        "targets": unique % vocabulary,
        "prediction_indices": np.concatenate(
            [each[len(each) - count :] for each, count in zip(predictions, counted, strict=True)]
        ),
        "sequence_ids": np.repeat(np.arange(2 * len(pairs)), counted),
        "completion_lengths": np.array(counted, dtype=np.float64),
        "nll_indices": np.concatenate(predictions[::2]),
        "input_positions": np.concatenate([*tree.row_indices[::2], *tree.row_indices[1::2]]),
    }
    if any(pair.weight != 1.0 for pair in pairs):
        weights = tensors["pair_weights"] = np.array([pair.weight for pair in pairs], dtype=np.float64)
        tensors["nll_weights"] = weights.repeat(lengths[::2])
    tensors = {name: torch.from_numpy(each) for name, each in tensors.items()}
    return MicroBatch(
        branches=tree.branches,
        num_chosen_inputs=sum(map(len, tree.row_indices[::2])),
        **tensors,
    )


def _inputs(pair: TokenPair) -> tuple[TokenIds, TokenIds]:
    """The inputs of chosen and of rejected: prompt and completion without its last token."""
    chosen, rejected = (torch.cat((pair.prompt, each)).numpy()[:-1] for each in (pair.chosen, pair.rejected))
    return chosen, rejected


def token_families(pairs: Sequence[TokenPair], max_tokens: int) -> list[tuple[int, list[int]]]:
    """Pairs that share a beginning, as (tokens, indices of ``pairs``), in the order of their first pairs.

    Each pair is compared with the one before it in sorted order, so a family may have fewer tokens than given here.
    """
    inputs = [_inputs(pair) for pair in pairs]
    families: list[tuple[int, list[int]]] = []
    before: tuple[TokenIds, ...] = ()
    for index in sorted(range(len(pairs)), key=lambda index: (sort_key(inputs[index][0]), index)):
        chosen, rejected = inputs[index]
        shared = max((shared_length(chosen, each) for each in before), default=0)
        both = shared_length(chosen, rejected)
        alone = len(chosen) + len(rejected) - both
        if before and is_worth_sharing(shared, min(len(chosen), len(before[0]))):
            added = alone - shared + both - max(both, *(shared_length(rejected, each) for each in before))
            if families[-1][0] + added <= max_tokens:
                families[-1] = families[-1][0] + added, [*families[-1][1], index]
                before = inputs[index]
                continue
        families.append((alone, [index]))
        before = inputs[index]
    return sorted(((size, sorted(indices)) for size, indices in families), key=lambda family: family[1][0])
