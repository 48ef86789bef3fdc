"""Preference scores: the mean log-probability of the chosen and the rejected completion of each pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orpo_cli.errors import MachineError, RunError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from orpo_cli.evaluation.eval_target import EvalTarget, Variant

Progress = Callable[[int, int], None]  # (done, of)
BeginProgress = Callable[["Variant"], Progress | None]

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
    nll_tokens: float  # their number; both are sums of products with the weights, where pairs have weights
    logits_chosen: float = math.nan  # mean over the vocabulary and all inputs of the chosen sequences
    logits_rejected: float = math.nan
    longer: torch.Tensor | None = None  # (pairs,) tokens by which the chosen completion is longer
    weights: torch.Tensor | None = None  # (pairs,) of the pairs in all means; None: all are 1


@dataclass(frozen=True)
class Completion:
    """A completion with its prompt, to be scored."""

    pair: int
    is_chosen: bool
    tokens: torch.Tensor  # (tokens,) int32
    completion_start: int  # position whose next token is the first one of the completion


Batch = list[Completion]


class PairScoring:
    """Scoring of ``pairs`` (rows of ``data.prepare``), batch by batch, possibly by several processes.

    The score of a completion is the mean log-probability of its tokens given the prompt, from float32 logits, as
    ``ORPOTrainer.get_batch_logps(average_log_prob=True)`` computes it (the log of P in Eq. 3 of arXiv 2403.07691). Evaluation
    in training and `orpo eval` both use it, with the same batches, so that they agree to the last digit. ``loss_on_prompt``:
    whether the NLL covers prompt and chosen completion, or the completion alone.
    """

    def __init__(self, pairs: Iterable[Mapping[str, Any]], *, loss_on_prompt: bool = True) -> None:
        pairs = list(pairs)
        weights = [row.get("weight", 1.0) for row in pairs]
        self.weights = torch.tensor(weights, dtype=torch.float64) if any(each != 1.0 for each in weights) else None
        self.completions = [
            Completion(index, side == "chosen", tokens, max(len(prompt) - 1, 0))
            for index, row in enumerate(pairs)
            for prompt in [row["prompt_input_ids"]]
            for side in ("chosen", "rejected")
            for tokens in [torch.tensor([*prompt, *row[f"{side}_answer_ids"]], dtype=torch.int32)]
        ]
        self.loss_on_prompt = loss_on_prompt
        # For each pair, of chosen and rejected: mean log-probability, sum of mean logits; of chosen: NLL, logits of the prompt.
        self.values = torch.zeros(6, len(self.completions) // 2, dtype=torch.float64)

    def batches(self, model: Any, device: torch.device, batch_size: int | None = None) -> list[Batch]:
        """Batches of similar length, the longest first, so that a lack of memory shows at once.

        ``batch_size``: their completions; by default a batch has a limited number of tokens.
        """
        max_tokens = _max_batch_tokens(model, device)
        rest = sorted(self.completions, key=lambda completion: len(completion.tokens), reverse=True)
        batches = []
        while rest:
            size = batch_size or max(1, max_tokens // len(rest[0].tokens))
            batches.append(rest[:size])
            rest = rest[size:]
        return batches

    def score(self, model: Any, batch: Batch, device: torch.device, *, counted: bool = True) -> None:
        """Compute the values of a batch. The LM head runs only at positions whose next token is scored.

        Not ``counted``: another process has this batch, and the forward pass needs all of them.
        """
        found = _token_scores(model, batch, device)
        for completion, (logps, logits) in zip(batch, found, strict=True) if counted else ():
            pair, start = completion.pair, completion.completion_start if completion.is_chosen else 0
            self.values[0 if completion.is_chosen else 1, pair] = logps[start:].mean()
            self.values[2 if completion.is_chosen else 3, pair] = logits.sum()
            if completion.is_chosen:
                self.values[4, pair] = -(logps if self.loss_on_prompt else logps[start:]).sum()
                self.values[5, pair] = logits[:start].sum()

    def settings(self) -> dict[str, Any]:
        """What decides the scores beside model and pairs, and the order of sums, JSON-ready."""
        return {"path": "padded", "loss_on_prompt": self.loss_on_prompt}

    def result(self) -> PairScores:
        """The scores, when all batches are computed."""
        chosen, rejected, chosen_logits, rejected_logits, nll, prompt_logits = self.values
        inputs = [0, 0]  # of rejected and of chosen sequences: their last token is none
        for each in self.completions:
            inputs[each.is_chosen] += len(each.tokens) - 1
        nll_tokens = torch.tensor([self._count_nll_tokens(each) for each, _ in self._pairs()])
        if self.weights is not None:
            nll, nll_tokens = nll * self.weights, nll_tokens * self.weights
        return PairScores(
            chosen=chosen,
            rejected=rejected,
            nll=nll.sum().item(),
            nll_tokens=nll_tokens.sum().item(),
            logits_chosen=chosen_logits.sum().item() / max(1, inputs[True]),
            logits_rejected=(rejected_logits + prompt_logits).sum().item() / max(1, inputs[False]),
            longer=torch.tensor([len(chosen.tokens) - len(rejected.tokens) for chosen, rejected in self._pairs()]),
            weights=self.weights,
        )

    def _count_nll_tokens(self, chosen: Completion) -> int:
        return len(chosen.tokens) - 1 - (0 if self.loss_on_prompt else chosen.completion_start)

    def _pairs(self) -> Iterator[tuple[Completion, Completion]]:
        return zip(self.completions[::2], self.completions[1::2], strict=True)


def score_pairs(
    model: PreTrainedModel | PeftModel,
    pairs: Sequence[dict[str, Any]],
    *,
    batch_size: int | None = None,
    loss_on_prompt: bool = True,
    progress: Progress | None = None,
) -> PairScores:
    """Score ``pairs`` with ``model``, which is in eval mode: see ``PairScoring``. ``progress`` receives the number of scored completions.

    Raises RunError where a score is not finite, MachineError where the device's memory is too small.
    """
    scoring = PairScoring(pairs, loss_on_prompt=loss_on_prompt)
    batches = scoring.batches(model, model.device, batch_size)
    compute_batches(batches, lambda batch: scoring.score(model, batch, model.device), model.device, progress)
    return finite_scores(scoring, pairs)


def compute_batches(
    batches: Sequence[list[Any]], score: Callable[[list[Any]], None], device: torch.device, progress: Progress | None
) -> None:
    """``score`` all batches. Raises MachineError where the device's memory is too small."""
    done, total = 0, sum(map(len, batches))
    for batch in batches:
        with _convert_out_of_memory(device):
            score(batch)
        done += len(batch)
        if progress is not None:
            progress(done, total)


def finite_scores(scoring: PairScoring, pairs: Sequence[Mapping[str, Any]]) -> PairScores:
    """The result of ``scoring``. Raises RunError where a score is not finite."""
    scores = scoring.result()
    _check_finite(torch.stack((scores.chosen, scores.rejected)), pairs)
    return scores


class PairScorer:
    """Scorer of pairs in padded batches. ``packed_scoring.PackedScorer`` computes the same faster."""

    def __call__(
        self,
        model: Any,
        rows: Sequence[dict[str, Any]],
        *,
        batch_size: int | None = None,
        loss_on_prompt: bool = True,
        progress: Progress | None = None,
    ) -> PairScores:
        """The result of ``score_pairs``, with its errors."""
        return score_pairs(model, rows, batch_size=batch_size, loss_on_prompt=loss_on_prompt, progress=progress)

    def settings(self, model: Any, *, loss_on_prompt: bool = True) -> dict[str, Any]:
        """``PairScoring.settings`` of a call with these arguments."""
        return PairScoring([], loss_on_prompt=loss_on_prompt).settings()

    def score_base_and_tuned(
        self,
        target: EvalTarget,
        rows: Sequence[dict[str, Any]],
        begin: BeginProgress,
        *,
        batch_size: int | None = None,
        loss_on_prompt: bool = True,
    ) -> dict[Variant, PairScores] | None:
        """The scores of both, where computing them together saves something; None elsewhere."""
        return None


def _token_scores(model: Any, batch: Batch, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probability and mean logit at the scored tokens: of a chosen sequence all but the first, of a rejected one the completion.

    Two float64 tensors of shape (scored tokens,) on the CPU per sequence.
    """
    length = max(len(sequence.tokens) for sequence in batch)
    tokens = torch.zeros(len(batch), length, dtype=torch.long)
    attention = torch.zeros_like(tokens)
    scored = torch.zeros(len(batch), length, dtype=torch.bool)  # at t: whether the token at t + 1 is scored
    for row, sequence in enumerate(batch):
        size = len(sequence.tokens)
        tokens[row, :size] = sequence.tokens
        attention[row, :size] = 1
        scored[row, 0 if sequence.is_chosen else sequence.completion_start : size - 1] = True

    targets = tokens.roll(-1, dims=1)[scored].to(device)
    # Not inference_mode: training may need tensors that a module caches in a forward pass.
    with torch.no_grad(), _lm_head_only_at(scored.to(device), model):
        logits = model(
            input_ids=tokens.to(device), attention_mask=attention.to(device), use_cache=False, return_dict=True
        ).logits
        if logits.shape[:2] == scored.shape:  # a model without a separate head module
            logits = logits[scored.to(device)]
        logits = logits.reshape(len(targets), -1)
        found = []
        for rows, target in zip(
            torch.split(logits, LOG_SOFTMAX_ROWS), torch.split(targets, LOG_SOFTMAX_ROWS), strict=True
        ):
            rows = rows if rows.dtype is torch.float64 else rows.float()
            logps = rows.gather(1, target[:, None])[:, 0] - rows.logsumexp(-1)  # log_softmax on a CPU is off by 1e-5
            found.append(torch.stack((logps, rows.mean(-1))))
    logps, means = torch.cat(found, dim=1).double().cpu()
    sizes = scored.sum(1).tolist()
    return list(zip(torch.split(logps, sizes), torch.split(means, sizes), strict=True))


@contextmanager
def _lm_head_only_at(positions: torch.Tensor, model: Any) -> Iterator[None]:
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


def _max_batch_tokens(model: Any, device: torch.device) -> int:
    max_tokens = MAX_BATCH_TOKENS.get(device.type, MAX_BATCH_TOKENS_GPU)
    vocab_size: int = model.config.get_text_config().vocab_size
    return min(max_tokens, MAX_LOGIT_BYTES // (4 * vocab_size))


@contextmanager
def mixed_precision(device: torch.device, *, bf16: bool, fp16: bool) -> Iterator[None]:
    """Context of forward passes as in a training with ``bf16`` or ``fp16``: products in half precision, whatever the weights are in."""
    if not (bf16 or fp16):
        yield
        return
    with torch.autocast(device.type, torch.bfloat16 if bf16 else torch.float16):
        yield


@contextmanager
def _convert_out_of_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the memory of {device} is too small for this batch.", remedy="Try --batch-size 1, or shorter pairs."
        ) from error


def _check_finite(means: torch.Tensor, pairs: Sequence[Mapping[str, Any]]) -> None:
    failed = (~torch.isfinite(means)).any(0).nonzero()[:, 0].tolist()
    if failed:
        named = ", ".join(str(pairs[index]["pair"]) for index in failed[:10]) + (", …" if len(failed) > 10 else "")
        raise RunError(
            f"the model gives no finite log-probability for {len(failed)} of {len(pairs)} pairs: {named}.",
            remedy="Its weights contain NaN or infinity, or a pair has no completion token; try model.dtype: float32.",
        )
