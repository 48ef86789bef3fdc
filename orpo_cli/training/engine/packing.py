"""How the pairs of a step lie in memory.

A pair is one stretch of a row: what both sequences begin with (the prompt, and the first words of the answers where they are
the same), then the rest of chosen, then the rest of rejected. Positions of rejected go on after the shared part. The last
token of an answer predicts nothing and is left out. Several pairs lie one after the other in one row, without padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from orpo_cli.estimate.batching import split_by_token_budget


class TokenPair(NamedTuple):
    """A pair as token ids, each one-dimensional int64: the prompt, and both answers without it."""

    row: str
    prompt: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


class Span(NamedTuple):
    """Where a pair lies in its row: its first place, and how many tokens are shared, chosen's and rejected's alone."""

    start: int
    shared: int
    chosen: int
    rejected: int

    @property
    def length(self) -> int:
        """All its tokens."""
        return self.shared + self.chosen + self.rejected

    def positions(self) -> torch.Tensor:
        """The position of each token in its sequence, (length,)."""
        return torch.cat((torch.arange(self.shared + self.chosen), torch.arange(self.rejected) + self.shared))

    def places(self, first: int, count: int, rejected: bool) -> torch.Tensor:
        """The places in the row of ``count`` tokens of a sequence, from its position ``first`` on."""
        places = torch.arange(first, first + count)
        if rejected:
            places[places >= self.shared] += self.chosen
        return places + self.start


@dataclass(frozen=True)
class MicroBatch:
    """Pairs in one row, (1, tokens), and which of its places predict what.

    ``targets[i]`` (int64) is predicted at the place ``places[i]``: N predictions, each computed once. A sequence's
    log-probability sums the predictions ``members[k]`` with ``sequences[k] == s``; sequence 2p is chosen of pair p, 2p + 1
    its rejected. ``counts`` (2 × pairs, float64) is how many tokens each answer has; ``nll`` lists the predictions whose
    mean is the NLL. ``seen[s]`` holds the places of the inputs of sequence s that predict something.
    """

    spans: tuple[Span, ...]
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    members: torch.Tensor
    sequences: torch.Tensor
    counts: torch.Tensor
    nll: torch.Tensor
    seen: torch.Tensor  # places, of all chosen sequences and then of all rejected ones
    seen_chosen: int  # how many of them are chosen's
    counted: bool = True  # False: computed for company alone, as other processes have more micro-batches

    @property
    def pairs(self) -> int:
        """How many pairs."""
        return len(self.spans)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on ``device``."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)  # type: ignore[arg-type]


def token_pair(row: Mapping[str, Any]) -> TokenPair:
    """A row of the dataset with the columns of trl's ORPOTrainer (see ``orpo_cli.data.table``)."""
    prompt = len(row["prompt_input_ids"])
    chosen, rejected = (torch.as_tensor(row[f"{name}_input_ids"], dtype=torch.int64) for name in ("chosen", "rejected"))
    return TokenPair(row["row"], chosen[:prompt], chosen[prompt:], rejected[prompt:])


def size(pair: TokenPair) -> int:
    """Tokens that a pair takes in a row."""
    return _span(pair, 0).length


def nll_tokens(pair: TokenPair, loss_on_prompt: bool) -> int:
    """How many predictions of a pair count in the NLL."""
    predicted = len(pair.chosen) - (len(pair.prompt) == 0)
    return predicted + (max(0, len(pair.prompt) - 1) if loss_on_prompt else 0)


def cut(pairs: Sequence[TokenPair], budget: int) -> list[list[TokenPair]]:
    """Pairs in groups of at most ``budget`` tokens (a longer pair is alone), longest first; the same for the same pairs."""
    return [
        [pairs[place] for place in group] for group in split_by_token_budget([size(pair) for pair in pairs], budget)
    ]


def pack(pairs: Sequence[TokenPair], loss_on_prompt: bool) -> MicroBatch:
    """Lay ``pairs`` into one row."""
    spans: list[Span] = []
    parts: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("ids", "positions", "places", "targets", "members", "sequences", "nll")
    }
    seen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    counts: list[int] = []
    start = predictions = 0
    for number, pair in enumerate(pairs):
        span = _span(pair, start)
        spans.append(span)
        start += span.length
        before = max(0, len(pair.prompt) - 1)  # position of the first input that predicts an answer
        first = 1 if len(pair.prompt) == 0 else 0  # the first token of an answer that is predicted
        common = max(0, span.shared - len(pair.prompt) - first)  # predictions that both answers have
        parts["ids"] += [_shared_ids(pair, span), *_own_ids(pair, span)]
        parts["positions"].append(span.positions())
        chosen, rejected = pair.chosen[first:], pair.rejected[first:]
        prompt = before if loss_on_prompt else 0
        # Predictions of the pair: the prompt's (where they count), chosen's, then those of rejected that are its own.
        parts["places"] += [
            span.places(0, prompt, False),
            span.places(before, len(chosen), False),
            span.places(before + common, len(rejected) - common, True),
        ]
        parts["targets"] += [pair.prompt[1 : 1 + prompt], chosen, rejected[common:]]
        of_chosen = torch.arange(len(chosen)) + predictions + prompt
        own_rejected = torch.arange(len(rejected) - common) + predictions + prompt + len(chosen)
        parts["members"] += [of_chosen, of_chosen[:common], own_rejected]
        parts["sequences"] += [
            torch.full((len(chosen),), 2 * number),
            torch.full((len(rejected),), 2 * number + 1),
        ]
        parts["nll"].append(torch.arange(predictions, predictions + prompt + len(chosen)))
        counts += [len(chosen), len(rejected)]
        seen[0].append(span.places(0, before + len(chosen), False))
        seen[1].append(span.places(0, before + len(rejected), True))
        predictions += prompt + len(chosen) + len(rejected) - common
    whole = {name: torch.cat(tensors) for name, tensors in parts.items()}
    return MicroBatch(
        spans=tuple(spans),
        input_ids=whole["ids"][None],
        position_ids=whole["positions"][None],
        places=whole["places"],
        targets=whole["targets"],
        members=whole["members"],
        sequences=whole["sequences"],
        counts=torch.tensor(counts, dtype=torch.float64),
        nll=whole["nll"],
        seen=torch.cat(seen[0] + seen[1]),
        seen_chosen=sum(map(len, seen[0])),
    )


def _span(pair: TokenPair, start: int) -> Span:
    short = min(len(pair.chosen), len(pair.rejected))
    differs = (pair.chosen[:short] != pair.rejected[:short]).nonzero()
    same = int(differs[0]) if len(differs) else short
    own = (max(0, len(answer) - 1 - same) for answer in (pair.chosen, pair.rejected))
    # Answers that begin alike up to the end of the shorter: its last token is an input of the longer only if that goes on.
    longest = max(len(pair.chosen), len(pair.rejected))
    return Span(start, len(pair.prompt) + min(same, longest - 1), *own)


def _shared_ids(pair: TokenPair, span: Span) -> torch.Tensor:
    return torch.cat((pair.prompt, pair.chosen if len(pair.chosen) > len(pair.rejected) else pair.rejected))[
        : span.shared
    ]


def _own_ids(pair: TokenPair, span: Span) -> tuple[torch.Tensor, torch.Tensor]:
    same = span.shared - len(pair.prompt)
    return pair.chosen[same : same + span.chosen], pair.rejected[same : same + span.rejected]
