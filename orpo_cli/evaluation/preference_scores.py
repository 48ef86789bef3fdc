"""How likely a model finds the chosen and the rejected answer of each pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orpo_cli.data.table import expand_pair
from orpo_cli.errors import MachineError, RunError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]  # (done, of)

IGNORE_INDEX = -100  # the label of a token that is not part of an answer
MAX_LOGIT_BYTES = 512 * 2**20  # float32 logits held at once
MAX_BATCH_TOKENS = {"cpu": 1024}  # more does not make a CPU faster
MAX_BATCH_TOKENS_GPU = 16384
LOG_SOFTMAX_ROWS = 128  # rows of logits that are turned to float32 at once


@dataclass(frozen=True)
class PairScores:
    """Log-probabilities, in nats, of the answers of ``pairs`` pairs. Tensors are float64 and on the CPU."""

    chosen: torch.Tensor  # (pairs,) mean over the answer's tokens, end of turn included
    rejected: torch.Tensor  # (pairs,)
    nll: float  # sum of -log p over every token of prompt and chosen answer but the first, as TRL's nll_loss
    nll_tokens: int


@dataclass(frozen=True)
class _Sequence:
    pair: int
    is_chosen: bool
    tokens: list[int]
    labels: list[int]  # IGNORED on the prompt


def score_pairs(
    model: PreTrainedModel | PeftModel,
    pairs: Sequence[dict[str, Any]],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> PairScores:
    """Score ``pairs`` (rows of ``data.prepare``) with ``model``.

    An answer's score is the mean log-probability of its tokens given the prompt, from float32 logits, as
    ``ORPOTrainer.get_batch_logps(average_log_prob=True)`` has it (P of Eq. 3 in arXiv 2403.07691, to the log). Sequences
    are batched by length; only positions whose next token counts reach the model's head. ``batch_size`` is in answers;
    by default as many as fill a fixed number of tokens. ``progress`` hears of answers.

    Raises RunError where a score is not finite, MachineError where the device's memory is too small.
    """
    sequences = [
        _Sequence(index, side == "chosen", row[f"{side}_input_ids"], row[f"{side}_labels"])
        for index, row in enumerate(map(expand_pair, pairs))
        for side in ("chosen", "rejected")
    ]
    means = torch.zeros(2, len(pairs), dtype=torch.float64)  # (rejected | chosen, pairs)
    nll, nll_tokens, done = 0.0, 0, 0
    for batch in _batches(sequences, batch_size, _max_batch_tokens(model)):
        for sequence, logps in zip(batch, _token_logps(model, batch), strict=True):
            answer = torch.tensor(sequence.labels[1:]) != IGNORE_INDEX
            if sequence.is_chosen:
                nll -= logps.sum().item()
                nll_tokens += logps.numel()
                logps = logps[answer]
            means[int(sequence.is_chosen), sequence.pair] = logps.mean()
        done += len(batch)
        if progress is not None:
            progress(done, len(sequences))
    _check_finite(means, pairs)
    return PairScores(chosen=means[1], rejected=means[0], nll=nll, nll_tokens=nll_tokens)


def _token_logps(model: PreTrainedModel | PeftModel, batch: list[_Sequence]) -> list[torch.Tensor]:
    """Log-probabilities of the tokens that count: of a chosen sequence all but the first, of a rejected one the answer.

    Each a float64 tensor of shape (tokens that count,) on the CPU.
    """
    length = max(len(sequence.tokens) for sequence in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    attention = torch.zeros_like(tokens)
    counts = torch.zeros(len(batch), length, dtype=torch.bool)  # at t: whether the token at t + 1 counts
    for row, sequence in enumerate(batch):
        size = len(sequence.tokens)
        tokens[row, :size] = torch.tensor(sequence.tokens)
        attention[row, :size] = 1
        counts[row, : size - 1] = True if sequence.is_chosen else torch.tensor(sequence.labels[1:]) != IGNORE_INDEX

    device = model.device
    targets = tokens.roll(-1, dims=1)[counts].to(device)
    with torch.inference_mode(), _lm_head_only_at(counts.to(device), model), _convert_out_of_memory(device):
        logits = model(
            input_ids=tokens.to(device), attention_mask=attention.to(device), use_cache=False, return_dict=True
        ).logits
        if logits.shape[:2] == counts.shape:  # a model without a head module of its own
            logits = logits[counts.to(device)]
        logits = logits.reshape(len(targets), -1)
        logps = torch.cat(
            [
                rows.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
                for rows, chosen in zip(
                    torch.split(logits, LOG_SOFTMAX_ROWS), torch.split(targets, LOG_SOFTMAX_ROWS), strict=True
                )
            ]
        )
    return list(torch.split(logps.double().cpu(), counts.sum(1).tolist()))


@contextmanager
def _lm_head_only_at(positions: torch.Tensor, model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Let the head see only ``positions`` (sequences, tokens), so that no logits are made of the others.

    A hook on the head rather than a call of the inner model: what an architecture does to its logits after the head
    (scaling, soft-capping) still happens.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return

    def select(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if args[0].shape[:2] != positions.shape:
            return args
        return (args[0][positions.to(args[0].device)][None], *args[1:])  # (1, counted tokens, hidden)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _max_batch_tokens(model: PreTrainedModel | PeftModel) -> int:
    at_most = MAX_BATCH_TOKENS.get(model.device.type, MAX_BATCH_TOKENS_GPU)
    vocabulary: int = model.config.get_text_config().vocab_size
    return min(at_most, MAX_LOGIT_BYTES // (4 * vocabulary))


def _batches(sequences: list[_Sequence], batch_size: int | None, tokens_at_once: int) -> Iterator[list[_Sequence]]:
    """Batches of like length, the longest first: what does not fit into memory shows at once."""
    rest = sorted(sequences, key=lambda sequence: len(sequence.tokens), reverse=True)
    while rest:
        size = batch_size or max(1, tokens_at_once // len(rest[0].tokens))
        batch, rest = rest[:size], rest[size:]
        yield batch


@contextmanager
def _convert_out_of_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the memory of {device} is too small for this batch.", remedy="Try --batch-size 1, or shorter pairs."
        ) from error


def _check_finite(means: torch.Tensor, pairs: Sequence[dict[str, Any]]) -> None:
    bad = (~torch.isfinite(means)).any(0).nonzero()[:, 0].tolist()
    if bad:
        named = ", ".join(str(pairs[index]["pair"]) for index in bad[:10]) + (", …" if len(bad) > 10 else "")
        raise RunError(
            f"the model gives no finite log-probability for {len(bad)} of {len(pairs)} pairs: {named}.",
            remedy="Its weights hold NaN or infinity, or a pair has no answer token; try model.dtype: float32.",
        )
