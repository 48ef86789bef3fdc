"""Backends of answers: the library that generates them, and what of it decides them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import xxhash

from orpo_cli.evaluation.base_digests import base_digests
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.generation import (
    Completion,
    SamplingParams,
    batches_by_length,
    check_context_lengths,
    complete_batch,
    plan_batches,
    stop_token_ids,
)
from orpo_cli.evaluation.prompts import Prompt
from orpo_cli.json_cache import code_digest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

VALUES_OF_A_TENSOR = 256  # that the digest of the weights reads: training changes almost every value

CompleteBatch = Callable[[list[int]], list[Completion]]  # completions of the prompts with these indices


class AnswerBackend(Protocol):
    """Library that generates answers."""

    def settings(self) -> dict[str, Any]:
        """What of the library and the model decides the answers, JSON-ready."""

    def environment(self) -> dict[str, Any]:
        """Versions and device: they change answers by rounding at most."""

    def compared_weights(self) -> str | None:
        """Digest of the weights whose answers are compared with these, where they are other weights."""

    def plan_batches(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, batch_size: int | None
    ) -> list[list[int]]:
        """Batches of prompt indices, which depend on the arguments and the model only. Raises UsageError for a prompt that is too long."""

    def completing(
        self, variant: Variant, prompts: Sequence[Prompt], sampling: SamplingParams
    ) -> AbstractContextManager[CompleteBatch]:
        """Context with a function that generates the completions of a batch with ``variant``."""


class FixedBatches:
    """Batch planning of a library that divides a batch itself: an interruption loses at most ``prompts_per_batch`` answers."""

    prompts_per_batch: int

    def compared_weights(self) -> None:
        """No other weights: all variants are in one file."""

    def plan_batches(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, batch_size: int | None
    ) -> list[list[int]]:
        """Batches of ``batch_size`` prompts, the longest first."""
        size = batch_size or self.prompts_per_batch
        return batches_by_length([len(prompt.input_ids) for prompt in prompts], lambda longest: size)


class TransformersBackend:
    """Generation with transformers, on the model of an evaluation target."""

    def __init__(self, target: EvalTarget, end_token_ids: frozenset[int], variants: tuple[Variant, ...]) -> None:
        self.target = target
        self.variants = variants
        self.stops = stop_token_ids(target.model, target.tokenizer, end_token_ids)

    def settings(self) -> dict[str, Any]:
        """Weights, dtype and end tokens."""
        return {
            "backend": "transformers",
            "weights": self._weights(),
            "dtype": str(self.target.model.dtype).removeprefix("torch."),
            "stop_token_ids": self.stops,
            "stop_tokens": self.target.tokenizer.convert_ids_to_tokens(self.stops),
        }

    def _weights(self) -> str:
        """Digest of the weights that answer.

        Of the base alone: of all its bytes, its configuration and its tokenizer, so that training the adapter does not change it.
        Where these do not decide the answers, and for other variants: of the run's model.
        """
        tokenizer = getattr(self.target.tokenizer, "backend_tokenizer", None)
        if self.variants == ("base",) and tokenizer is not None:
            with self.target.use_variant("base") as model:
                digests = base_digests(model)
            if digests is not None:
                return xxhash.xxh3_128_hexdigest("\0".join([*digests[1:], tokenizer.to_str()]).encode())
        return weights_digest(self.target.model)

    def compared_weights(self) -> str | None:
        """Digest of the weights whose answers are compared with those of the base alone; None for other variants."""
        return weights_digest(self.target.model) if self.variants == ("base",) else None

    def environment(self) -> dict[str, Any]:
        """Versions, device, threads and code."""
        device = self.target.model.device
        root = Path(__file__).parents[1]
        code = code_digest(
            (), [module for folder in ("evaluation", "model") for module in (root / folder).glob("*.py")]
        )
        return {
            "code": code,
            **{name: version(name) for name in ("torch", "transformers", "peft")},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
        }

    def plan_batches(
        self, prompts: Sequence[Prompt], sampling: SamplingParams, batch_size: int | None
    ) -> list[list[int]]:
        """``generation.plan_batches``, after a check of the lengths."""
        check_context_lengths(self.target.model, prompts, sampling)
        return plan_batches(self.target.model, prompts, sampling, batch_size)

    @contextmanager
    def completing(
        self, variant: Variant, prompts: Sequence[Prompt], sampling: SamplingParams
    ) -> Iterator[CompleteBatch]:
        """``generation.complete_batch`` with the model of ``variant``."""
        with self.target.use_variant(variant) as model:
            yield lambda batch: complete_batch(model, self.target.tokenizer, prompts, batch, sampling, self.stops)


def weights_digest(model: PreTrainedModel | PeftModel) -> str:
    """Digest of some values of every tensor: it tells models apart without reading all of their weights."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta":  # offloaded to the disk
            values = weight.detach().reshape(-1)[:: max(1, weight.numel() // VALUES_OF_A_TENSOR)]
            digest.update(values.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
