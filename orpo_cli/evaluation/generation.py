"""Text generation: completions of prompts, greedy by default."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.evaluation.prompts import Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

BATCH_SIZE = 8  # prompts; a step reads all weights for any number of prompts, so a few cost little more than one


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters. ``temperature`` 0 is greedy; ``top_p`` and ``seed`` apply to other temperatures."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def with_seed(self) -> SamplingParams:
        """Parameters with a random seed where sampling needs one and none is set."""
        if self.temperature == 0 or self.seed is not None:
            return self
        return SamplingParams(self.max_new_tokens, self.temperature, self.top_p, secrets.randbelow(2**31))


@dataclass(frozen=True)
class Completion:
    """Generated completion. ``finished``: it ended before ``max_new_tokens``; ``tokens`` includes the end token."""

    text: str
    tokens: int
    finished: bool


def stop_token_ids(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, end_token_ids: frozenset[int]
) -> list[int]:
    """Ids of all end tokens: of the model's generation config, the tokenizer's EOS, the template's ``end_token_ids``."""
    configured = model.generation_config.eos_token_id
    stops = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id} | end_token_ids
    return sorted(stop for stop in stops if stop is not None)


def generate_completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    end_token_ids: frozenset[int],
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """Generate a completion for each prompt, in their order. Prompts of similar length share a batch.

    Greedy completions do not depend on ``batch_size``; sampled ones depend on it and on the seed. Raises UsageError where a
    prompt and its completion do not fit into the model's context, MachineError where the memory is too small.
    """
    for number, prompt in enumerate(prompts, start=1):
        check_context_length(model, len(prompt.input_ids), sampling, f"prompt {number}")
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    stops = stop_token_ids(model, tokenizer, end_token_ids)
    completions: dict[int, Completion] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].input_ids))
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        rows = generate_token_ids(model, tokenizer, [prompts[index].input_ids for index in batch], sampling, stops)
        for index, tokens in zip(batch, rows, strict=True):
            completions[index] = decode_completion(tokenizer, tokens, stops)
        if progress is not None:
            progress(len(completions), len(prompts))
    return [completions[index] for index in range(len(prompts))]


def generate_token_ids(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: list[list[int]],
    sampling: SamplingParams,
    stops: list[int],
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Generate token ids for each prompt of ``batch``, up to and including the first end token, at most ``max_new_tokens``."""
    length = max(len(ids) for ids in batch)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (length - len(ids)) + ids for ids in batch], device=model.device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in batch], device=model.device)
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=tokens,
                attention_mask=mask,
                generation_config=_generation_config(sampling, stops, pad),
                streamer=streamer,
            )
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the memory of {model.device} is too small.", remedy="Use shorter prompts, or a smaller --max-new-tokens."
        ) from error
    return [_truncate_at_stop(row, stops) for row in output[:, length:].tolist()]


def decode_completion(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: list[int]) -> Completion:
    """Text of the generated ``tokens``, without the end token."""
    finished = bool(tokens) and tokens[-1] in stops
    text = tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True)
    return Completion(str(text), len(tokens), finished)


def check_context_length(
    model: PreTrainedModel | PeftModel, prompt_tokens: int, sampling: SamplingParams, what: str
) -> None:
    """Raise UsageError where prompt and completion exceed ``max_position_embeddings`` of the model."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(context, int) and prompt_tokens + sampling.max_new_tokens > context:
        raise UsageError(
            f"{what} has {prompt_tokens} tokens; with {sampling.max_new_tokens} new ones that is more than the "
            f"{context} of the model's context.",
            remedy="Shorten it, or lower --max-new-tokens.",
        )


def _generation_config(sampling: SamplingParams, stops: list[int], pad: int) -> GenerationConfig:
    """Generation config with all values set, so that a model's defaults (repetition penalty, top_k) do not affect a comparison."""
    from transformers import GenerationConfig

    sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=stops,
        pad_token_id=pad,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        do_sample=sampling.temperature > 0,
        **(sampled if sampling.temperature > 0 else {}),
    )


def _truncate_at_stop(tokens: list[int], stops: list[int]) -> list[int]:
    """``tokens`` up to and including the first end token; the rest is padding."""
    end = next((at for at, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]
