"""Attention of long blocks with oneDNN's matrix products, for AMD CPUs with AVX-512: see ``onednn``.

torch's FlashAttention for CPUs computes its products with MKL, at half the speed of such a CPU. Here they are matrices of the
queries of a few heads at a time, so that their scores stay in the cache. The equations are FlashAttention's (arXiv 2205.14135),
with powers of 2 for those of e: see ``vector_math.exp_``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from orpo_cli.model import onednn
from orpo_cli.model.vector_math import LOG2_E

ROWS = 384  # of a product: queries of the heads of one key head
MIN_ROWS_OF_HEAD = 64
MIN_KEYS = 256  # below, FlashAttention is as fast


def is_faster(query: torch.Tensor, keys: int) -> bool:
    """Whether these functions are faster than FlashAttention for this number of keys, without a mask."""
    return keys >= MIN_KEYS and query.is_cpu and query.dtype is torch.float32 and onednn.in_use()


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, as ``query`` (1, heads, queries, head_dim), and the log-sum-exp of the scores, (1, heads, queries).

    ``key``, ``value``: (1, kv_heads, keys, head_dim). ``causal``: query i sees the keys up to i.
    """
    output, log_sum = torch.empty_like(query), query.new_empty(query.shape[:-1])
    blocks = _blocks(query, key, causal)
    hidden = _hidden(blocks, causal)
    for head, heads in enumerate(_heads_of_keys(query, key)):
        k, v = key[0, head].contiguous(), value[0, head].contiguous()
        for rows, keys in blocks:
            scores = torch.mm(_flat(query[0, heads, rows] * (scaling * LOG2_E)), k[:keys].t())
            _hide(scores, rows, hidden, float("-inf"))
            largest = scores.amax(1, keepdim=True)
            total = scores.sub_(largest).exp2_().sum(1, keepdim=True)
            found = output[0, heads, rows]
            found.copy_(torch.mm(scores, v[:keys]).div_(total).view(found.shape))
            log_sum[0, heads, rows] = largest.div_(LOG2_E).add_(total.log_()).view(found.shape[:-1])
    return output, log_sum


def attend_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    log_sum: torch.Tensor,
    causal: bool,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the queries, keys and values; ``output`` and ``log_sum`` may be those of more keys."""
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    blocks = _blocks(query, key, causal)
    hidden = _hidden(blocks, causal)
    for head, heads in enumerate(_heads_of_keys(query, key)):
        k, v = key[0, head].contiguous(), value[0, head].contiguous()
        # (head_dim, keys): a product whose left matrix is a transposed one of many rows would copy it
        sum_k, sum_v = k.new_zeros(k.t().shape), v.new_zeros(v.t().shape)
        for rows, keys in blocks:
            q, g = _flat(query[0, heads, rows]), _flat(gradient[0, heads, rows])
            log_sums = log_sum[0, heads, rows].reshape(-1, 1) * LOG2_E
            weights = torch.mm(q * (scaling * LOG2_E), k[:keys].t()).sub_(log_sums).exp2_()
            _hide(weights, rows, hidden, 0.0)
            sum_v[:, :keys] += torch.mm(g.t(), weights)
            of_scores = torch.mm(g, v[:keys].t()).sub_((g * _flat(output[0, heads, rows])).sum(1, keepdim=True))
            of_scores.mul_(weights)
            found = of_query[0, heads, rows]
            found.copy_(torch.mm(of_scores, k[:keys]).mul_(scaling).view(found.shape))
            sum_k[:, :keys] += torch.mm(q.t(), of_scores)
        of_key[0, head], of_value[0, head] = sum_k.mul_(scaling).t(), sum_v.t()
    return of_query, of_key, of_value


def _heads_of_keys(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
    """The query heads of each key head."""
    group = query.shape[1] // key.shape[1]
    return [slice(head * group, (head + 1) * group) for head in range(key.shape[1])]


def _blocks(query: torch.Tensor, key: torch.Tensor, causal: bool) -> list[tuple[slice, int]]:
    """Slices of the queries, each with the number of keys that it sees."""
    length, keys, group = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    rows = max(MIN_ROWS_OF_HEAD, ROWS // group)
    ends = [(at, min(length, at + rows)) for at in range(0, length, rows)]
    return [(slice(start, end), min(end, keys) if causal else keys) for start, end in ends]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(heads, rows, head_dim) to (heads * rows, head_dim)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _hidden(blocks: Sequence[tuple[slice, int]], causal: bool) -> torch.Tensor | None:
    """Keys behind their query, (queries, keys) of the largest block: its own tokens above the diagonal. None where all are seen."""
    size = max((rows.stop - rows.start for rows, _ in blocks), default=0)
    return torch.ones((size, size), dtype=torch.bool).triu_(1) if causal else None


def _hide(scores: torch.Tensor, rows: slice, hidden: torch.Tensor | None, value: float) -> None:
    """Set the scores (heads * rows, keys) of keys behind their query to ``value``."""
    if hidden is None:
        return
    size = rows.stop - rows.start
    square = scores.view(-1, size, scores.shape[1])[:, :, rows.start :]
    square.masked_fill_(hidden[:size, : square.shape[2]], value)
