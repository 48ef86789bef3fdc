"""Preference scores: the mean log-probability of the chosen and the rejected completion of each pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orpo_cli.errors import MachineError, RunError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]  # (done, of)

MAX_LOGIT_BYTES = 512 * 2**20  # float32 logits in memory at once
MAX_BATCH_TOKENS = {"cpu": 1024}  # more does not make a CPU faster
MAX_BATCH_TOKENS_GPU = 16384
LOG_SOFTMAX_ROWS = 128  # rows of logits converted to float32 at once


@dataclass(frozen=True)
class PairScores:
    """Log-probabilities (nats) of the completions of ``pairs`` pairs. Tensors are float64 and on the CPU."""

    chosen: torch.Tensor  # (pairs,) mean over the completion's tokens, end token included
    rejected: torch.Tensor  # (pairs,)
    nll: float  # sum of -log p over all tokens of prompt and chosen completion but the first, as TRL's nll_loss
    nll_tokens: int


@dataclass(frozen=True)
class _Sequence:
    pair: int
    is_chosen: bool
    tokens: list[int]
    completion_start: int  # position whose next token is the first one of the completion


def score_pairs(
    model: PreTrainedModel | PeftModel,
    pairs: Sequence[dict[str, Any]],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> PairScores:
    """Score ``pairs`` (rows of ``data.prepare``) with ``model``.

    The score of a completion is the mean log-probability of its tokens given the prompt, from float32 logits, as
    ``ORPOTrainer.get_batch_logps(average_log_prob=True)`` computes it (the log of P in Eq. 3 of arXiv 2403.07691). Sequences are
    batched by length; the LM head runs only at positions whose next token is scored. ``batch_size`` is in completions; by
    default a batch has a fixed number of tokens. ``progress`` receives the number of scored completions.

    Raises RunError where a score is not finite, MachineError where the device's memory is too small.
    """
    sequences = [
        _Sequence(index, side == "chosen", [*prompt, *row[f"{side}_answer_ids"]], max(len(prompt) - 1, 0))
        for index, row in enumerate(pairs)
        for prompt in [row["prompt_input_ids"]]
        for side in ("chosen", "rejected")
    ]
    means = torch.zeros(2, len(pairs), dtype=torch.float64)  # (rejected | chosen, pairs)
    nll, nll_tokens, done = 0.0, 0, 0
    for batch in _batches(sequences, batch_size, _max_batch_tokens(model)):
        for sequence, logps in zip(batch, _token_logps(model, batch), strict=True):
            if sequence.is_chosen:
                nll -= logps.sum().item()
                nll_tokens += logps.numel()
                logps = logps[sequence.completion_start :]
            means[int(sequence.is_chosen), sequence.pair] = logps.mean()
        done += len(batch)
        if progress is not None:
            progress(done, len(sequences))
    _check_finite(means, pairs)
    return PairScores(chosen=means[1], rejected=means[0], nll=nll, nll_tokens=nll_tokens)


def _token_logps(model: PreTrainedModel | PeftModel, batch: list[_Sequence]) -> list[torch.Tensor]:
    """Log-probabilities of the scored tokens: of a chosen sequence all but the first, of a rejected one the completion.

    One float64 tensor of shape (scored tokens,) on the CPU per sequence.
    """
    length = max(len(sequence.tokens) for sequence in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    attention = torch.zeros_like(tokens)
    scored = torch.zeros(len(batch), length, dtype=torch.bool)  # at t: whether the token at t + 1 is scored
    for row, sequence in enumerate(batch):
        size = len(sequence.tokens)
        tokens[row, :size] = torch.tensor(sequence.tokens)
        attention[row, :size] = 1
        scored[row, 0 if sequence.is_chosen else sequence.completion_start : size - 1] = True

    device = model.device
    targets = tokens.roll(-1, dims=1)[scored].to(device)
    with torch.inference_mode(), _lm_head_only_at(scored.to(device), model), _convert_out_of_memory(device):
        logits = model(
            input_ids=tokens.to(device), attention_mask=attention.to(device), use_cache=False, return_dict=True
        ).logits
        if logits.shape[:2] == scored.shape:  # a model without a separate head module
            logits = logits[scored.to(device)]
        logits = logits.reshape(len(targets), -1)
        logps = torch.cat(
            [
                rows.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
                for rows, chosen in zip(
                    torch.split(logits, LOG_SOFTMAX_ROWS), torch.split(targets, LOG_SOFTMAX_ROWS), strict=True
                )
            ]
        )
    return list(torch.split(logps.double().cpu(), scored.sum(1).tolist()))


@contextmanager
def _lm_head_only_at(positions: torch.Tensor, model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Run the LM head only at ``positions`` (sequences, tokens), so that no other logits are computed.

    A hook on the head, not a call of the inner model, so that logit scaling and soft-capping after the head still apply.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return

    def select(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if args[0].shape[:2] != positions.shape:
            return args
        return (args[0][positions.to(args[0].device)][None], *args[1:])  # (1, scored tokens, hidden_size)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _max_batch_tokens(model: PreTrainedModel | PeftModel) -> int:
    max_tokens = MAX_BATCH_TOKENS.get(model.device.type, MAX_BATCH_TOKENS_GPU)
    vocab_size: int = model.config.get_text_config().vocab_size
    return min(max_tokens, MAX_LOGIT_BYTES // (4 * vocab_size))


def _batches(sequences: list[_Sequence], batch_size: int | None, max_tokens: int) -> Iterator[list[_Sequence]]:
    """Batches of similar length, the longest first, so that a lack of memory shows at once."""
    rest = sorted(sequences, key=lambda sequence: len(sequence.tokens), reverse=True)
    while rest:
        size = batch_size or max(1, max_tokens // len(rest[0].tokens))
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
    failed = (~torch.isfinite(means)).any(0).nonzero()[:, 0].tolist()
    if failed:
        named = ", ".join(str(pairs[index]["pair"]) for index in failed[:10]) + (", …" if len(failed) > 10 else "")
        raise RunError(
            f"the model gives no finite log-probability for {len(failed)} of {len(pairs)} pairs: {named}.",
            remedy="Its weights contain NaN or infinity, or a pair has no completion token; try model.dtype: float32.",
        )
