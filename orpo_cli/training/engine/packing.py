"""Sequence packing of preference pairs: several pairs in one row of tokens, without padding and with each prompt once.

A pair takes one span of the row: the shared prefix (the prompt, and the first tokens of both completions where they are
equal), then the rest of chosen, then the rest of rejected. Position ids of rejected continue after the shared prefix. The
last token of a completion predicts nothing and is left out.

Scoring without gradients goes further: the tokens with which all its prompts begin (a system prompt) are once at the start of
the row, and no pair's span contains them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from orpo_cli.estimate.batching import split_by_token_budget


class TokenPair(NamedTuple):
    """A preference pair as token ids, (length,) int64 each: the prompt, and both completions without it; and its weight."""

    row: str
    prompt: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    weight: float = 1.0


class PairSpan(NamedTuple):
    """Span of a pair in its row: its first index, and the tokens of the shared prefix, of chosen and of rejected.

    The first ``common`` tokens of the shared prefix are those of all pairs, and are at the start of the row instead.
    """

    start: int
    shared: int
    chosen: int
    rejected: int
    common: int = 0

    @property
    def own_shared(self) -> int:
        """Tokens of the shared prefix that are in the span."""
        return self.shared - self.common

    @property
    def length(self) -> int:
        """Tokens of the span."""
        return self.own_shared + self.chosen + self.rejected

    def position_ids(self) -> torch.Tensor:
        """The position of each token in its sequence, (length,)."""
        first = torch.arange(self.common, self.shared + self.chosen)
        return torch.cat((first, torch.arange(self.rejected) + self.shared))

    def row_indices(self, first: int, count: int, rejected: bool) -> torch.Tensor:
        """Row indices of ``count`` tokens of a sequence (chosen or rejected), from its position ``first`` on, (count,)."""
        indices = torch.arange(first, first + count)
        if rejected:
            indices[indices >= self.shared] += self.chosen
        return torch.where(indices < self.common, indices, indices - self.common + self.start)


@dataclass(frozen=True)
class MicroBatch:
    """Packed pairs in one row of T tokens, and which positions predict what.

    ``input_ids`` and ``position_ids`` are (1, T). ``targets[i]`` (int64) is predicted at row index ``predict_positions[i]``:
    N predictions, each computed once, though chosen and rejected may share it. Sequence 2p is chosen of pair p, 2p + 1 its
    rejected; the log-probability of sequence s is the sum over the predictions ``prediction_indices[k]`` with
    ``sequence_ids[k] == s``. ``completion_lengths`` (2 × pairs, float64) counts the predicted tokens of each completion.
    ``nll_indices`` are the predictions whose mean is the NLL. ``input_positions`` are the row indices of the inputs of all
    chosen sequences, ``num_chosen_inputs`` of them, and then of all rejected ones: trl's mean logits are taken over these.
    ``pair_weights`` (pairs, float64) and ``nll_weights`` (one for each of ``nll_indices``) are None where all weights are 1.
    """

    spans: tuple[PairSpan, ...]
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

    @property
    def common(self) -> int:
        """Tokens at the start of the row with which all pairs begin."""
        return self.spans[0].common

    @property
    def num_pairs(self) -> int:
        """Pairs in the row."""
        return len(self.spans)

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return self.input_ids.shape[1]

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
    """Tokens that a pair takes in a row."""
    return _pair_span(pair, 0).length


def count_nll_tokens(pair: TokenPair, loss_on_prompt: bool) -> int:
    """Predictions of a pair that count in the NLL."""
    predicted = len(pair.chosen) - (len(pair.prompt) == 0)
    return predicted + (max(0, len(pair.prompt) - 1) if loss_on_prompt else 0)


def split_into_groups(pairs: Sequence[TokenPair], max_tokens: int) -> list[list[TokenPair]]:
    """Pairs in groups of at most ``max_tokens`` tokens (a longer pair is alone), longest first. Deterministic."""
    return [
        [pairs[index] for index in group]
        for group in split_by_token_budget([packed_length(pair) for pair in pairs], max_tokens)
    ]


def common_prefix_length(pairs: Sequence[TokenPair]) -> int:
    """Tokens with which the prompts of all ``pairs`` begin."""
    shortest = min((len(pair.prompt) for pair in pairs), default=0)
    if not shortest:
        return 0
    prompts = torch.stack([pair.prompt[:shortest] for pair in pairs])
    return int((prompts == prompts[0]).all(0).cumprod(0).sum())


def pack(pairs: Sequence[TokenPair], loss_on_prompt: bool, common: int = 0) -> MicroBatch:
    """Pack ``pairs`` into one row. Their prompts begin with the same ``common`` tokens, which are there once."""
    spans: list[PairSpan] = []
    columns: defaultdict[str, list[torch.Tensor]] = defaultdict(list)  # by field of MicroBatch
    inputs: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    lengths: list[int] = []
    start, predictions = common, 0
    if common:
        columns["input_ids"].append(pairs[0].prompt[:common])
        columns["position_ids"].append(torch.arange(common))
    for number, pair in enumerate(pairs):
        span = _pair_span(pair, start, common)
        spans.append(span)
        start += span.length
        before = max(0, len(pair.prompt) - 1)  # position of the first input that predicts a completion token
        first = 1 if len(pair.prompt) == 0 else 0  # the first token of a completion that is predicted
        equal = max(0, span.shared - len(pair.prompt) - first)  # predictions that both completions share
        columns["input_ids"] += _span_ids(pair, span)
        columns["position_ids"].append(span.position_ids())
        chosen, rejected = pair.chosen[first:], pair.rejected[first:]
        prompt = before if loss_on_prompt else 0
        # Predictions of the pair: the prompt's (where they count), all of chosen, then those of rejected after the common ones.
        columns["predict_positions"] += [
            span.row_indices(0, prompt, False),
            span.row_indices(before, len(chosen), False),
            span.row_indices(before + equal, len(rejected) - equal, True),
        ]
        columns["targets"] += [pair.prompt[1 : 1 + prompt], chosen, rejected[equal:]]
        chosen_predictions = torch.arange(len(chosen)) + predictions + prompt
        rejected_predictions = torch.arange(len(rejected) - equal) + predictions + prompt + len(chosen)
        columns["prediction_indices"] += [chosen_predictions, chosen_predictions[:equal], rejected_predictions]
        columns["sequence_ids"] += [
            torch.full((len(chosen),), 2 * number),
            torch.full((len(rejected),), 2 * number + 1),
        ]
        columns["nll_indices"].append(torch.arange(predictions, predictions + prompt + len(chosen)))
        lengths += [len(chosen), len(rejected)]
        inputs[0].append(span.row_indices(0, before + len(chosen), False))
        inputs[1].append(span.row_indices(0, before + len(rejected), True))
        predictions += prompt + len(chosen) + len(rejected) - equal
    tensors: dict[str, Any] = {name: torch.cat(each) for name, each in columns.items()}
    for name in ("input_ids", "position_ids"):
        tensors[name] = tensors[name][None]
    if any(pair.weight != 1.0 for pair in pairs):
        weights = tensors["pair_weights"] = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
        counts = torch.tensor([len(indices) for indices in columns["nll_indices"]])
        tensors["nll_weights"] = weights.repeat_interleave(counts)
    return MicroBatch(
        spans=tuple(spans),
        completion_lengths=torch.tensor(lengths, dtype=torch.float64),
        input_positions=torch.cat(inputs[0] + inputs[1]),
        num_chosen_inputs=sum(map(len, inputs[0])),
        **tensors,
    )


def _pair_span(pair: TokenPair, start: int, common: int = 0) -> PairSpan:
    short = min(len(pair.chosen), len(pair.rejected))
    differs = (pair.chosen[:short] != pair.rejected[:short]).nonzero()
    same = int(differs[0]) if len(differs) else short
    chosen, rejected = (max(0, len(completion) - 1 - same) for completion in (pair.chosen, pair.rejected))
    # Where one completion is a prefix of the other, its last token is an input only of the longer one, if that continues.
    longest = max(len(pair.chosen), len(pair.rejected))
    return PairSpan(start, len(pair.prompt) + min(same, longest - 1), chosen, rejected, common)


def _span_ids(pair: TokenPair, span: PairSpan) -> list[torch.Tensor]:
    """Token ids of the shared prefix, of the rest of chosen, and of the rest of rejected."""
    longer = pair.chosen if len(pair.chosen) > len(pair.rejected) else pair.rejected
    same = span.shared - len(pair.prompt)
    return [
        torch.cat((pair.prompt, longer))[span.common : span.shared],
        pair.chosen[same : same + span.chosen],
        pair.rejected[same : same + span.rejected],
    ]
