"""Text generation: completions of prompts in batches of similar length, greedy by default.

A batch ends with its longest completion. Every ``SEGMENT_TOKENS`` tokens the finished rows leave it, so that they cost no more.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.evaluation.prompts import Prompt
from orpo_cli.evaluation.seeded_sampling import SeededSampling, uniforms_of_prompts

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

BATCH_SIZE = 32  # prompts; a step reads all weights for any number of prompts, so a few cost little more than one
CACHE_BYTES = 2 << 30  # of the keys and values of a batch
CACHE_BYTES_PER_TOKEN = 2 * 32 * 8 * 128 * 2  # of a model of 8B parameters, where the config does not say it
SEGMENT_TOKENS = 32  # new tokens between two removals of finished rows
INCOMPLETE_CHARACTER = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


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


def plan_batches(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    batch_size: int | None = None,
) -> list[list[int]]:
    """Batches of prompt indices, the longest prompts first: prompts of similar length share a batch, with little padding.

    The plan depends on nothing but its arguments, so an interrupted generation continues with the same batches. Default:
    at most ``BATCH_SIZE`` prompts, and ``CACHE_BYTES`` of keys and values.
    """
    tokens_fit = CACHE_BYTES // _cache_bytes_per_token(model)

    def rows(longest: int) -> int:
        return batch_size or min(BATCH_SIZE, tokens_fit // (longest + sampling.max_new_tokens))

    return batches_by_length([len(prompt.input_ids) for prompt in prompts], rows)


def batches_by_length(lengths: Sequence[int], rows: Callable[[int], int]) -> list[list[int]]:
    """Batches of indices, the longest first. ``rows``: how many fit into a batch, given the length of the longest."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not batches or len(batches[-1]) >= rows(lengths[batches[-1][0]]):
            batches.append([])
        batches[-1].append(index)
    return batches


def complete_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    batch: list[int],
    sampling: SamplingParams,
    stops: list[int],
) -> list[Completion]:
    """Generate the completions of the prompts with the indices ``batch``. Raises MachineError where the memory is too small."""
    uniforms = None
    if sampling.temperature > 0:
        sampling = sampling.with_seed()
        assert sampling.seed is not None
        uniforms = uniforms_of_prompts(sampling.seed, batch, sampling.max_new_tokens)
    ids = [prompts[index].input_ids for index in batch]
    rows = generate_token_ids(model, tokenizer, ids, sampling, stops, uniforms=uniforms)
    return [decode_completion(tokenizer, row, stops) for row in rows]


def generate_token_ids(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: list[list[int]],
    sampling: SamplingParams,
    stops: list[int],
    streamer: BaseStreamer | None = None,
    *,
    uniforms: torch.Tensor | None = None,
) -> list[list[int]]:
    """Generate token ids for each prompt of ``batch``, up to and including the first end token, at most ``max_new_tokens``.

    ``uniforms``: the random numbers of each row, for sampling that does not depend on the other rows.
    """
    length = max(len(ids) for ids in batch)
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (length - len(ids)) + ids for ids in batch], device=model.device)
    mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in batch], device=model.device)
    cache = None if len(batch) == 1 else _selectable_cache(model)
    generated: list[list[int]] = [[] for _ in batch]
    rows, left = list(range(len(batch))), sampling.max_new_tokens  # unfinished rows, and new tokens that remain
    try:
        with torch.inference_mode():
            while rows and left:
                new_tokens = left if cache is None else min(left, SEGMENT_TOKENS)
                sampler = _sampler(sampling, uniforms, rows, length)
                output = model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    generation_config=_generation_config(sampling, stops, pad, new_tokens, sampler is None),
                    logits_processor=None if sampler is None else [sampler],
                    streamer=streamer,
                    **({} if cache is None else {"past_key_values": cache}),
                )
                new = output[:, tokens.shape[1] :].tolist()
                for row, ids in zip(rows, new, strict=True):
                    generated[row] += _truncate_at_stop(ids, stops)
                left -= new_tokens
                unfinished = [at for at, row in enumerate(rows) if generated[row][-1] not in stops]
                if cache is not None and unfinished and left:
                    selected = torch.tensor(unfinished, device=model.device)
                    if len(unfinished) < len(rows):
                        cache.batch_select_indices(selected)
                    tokens = output[selected]
                    mask = torch.nn.functional.pad(mask[selected], (0, new_tokens), value=1)
                rows = [rows[at] for at in unfinished]
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the memory of {model.device} is too small.", remedy="Use shorter prompts, or a smaller --max-new-tokens."
        ) from error
    return generated


def _sampler(
    sampling: SamplingParams, uniforms: torch.Tensor | None, rows: list[int], prompt_length: int
) -> SeededSampling | None:
    if uniforms is None:
        return None
    return SeededSampling(sampling.temperature, sampling.top_p, uniforms[rows], prompt_length)


def _selectable_cache(model: PreTrainedModel | PeftModel) -> DynamicCache | None:
    """An empty cache of keys and values whose rows can be selected; None for models that have another kind of cache."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    return cache if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers) else None


def _cache_bytes_per_token(model: PreTrainedModel | PeftModel) -> int:
    """Bytes of the keys and values of a token."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    layers, hidden = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not (isinstance(heads, int) and isinstance(layers, int) and isinstance(hidden, int)):
        return CACHE_BYTES_PER_TOKEN
    head_size = getattr(config, "head_dim", None) or hidden // heads
    return int(2 * layers * (getattr(config, "num_key_value_heads", None) or heads) * head_size * model.dtype.itemsize)


def decode_completion(tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: list[int]) -> Completion:
    """Text of the generated ``tokens``, without the end token and without a character that the maximum length cut."""
    finished = bool(tokens) and tokens[-1] in stops
    text = str(tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True))
    return Completion(text if finished else text.rstrip(INCOMPLETE_CHARACTER), len(tokens), finished)


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


def check_context_lengths(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Prompt], sampling: SamplingParams
) -> None:
    """Raise UsageError for the first prompt that does not fit into the model's context with its completion."""
    for number, prompt in enumerate(prompts, start=1):
        check_context_length(model, len(prompt.input_ids), sampling, f"prompt {number}")


def _generation_config(
    sampling: SamplingParams, stops: list[int], pad: int, new_tokens: int, samples: bool
) -> GenerationConfig:
    """Generation config with all values set, so that a model's defaults (repetition penalty, top_k) do not affect a comparison.

    ``samples``: whether the library draws the tokens at a temperature above 0.
    """
    from transformers import GenerationConfig

    sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    do_sample = samples and sampling.temperature > 0
    return GenerationConfig(
        max_new_tokens=new_tokens,
        eos_token_id=stops,
        pad_token_id=pad,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        do_sample=do_sample,
        **(sampled if do_sample else {}),
    )


def _truncate_at_stop(tokens: list[int], stops: list[int]) -> list[int]:
    """``tokens`` up to and including the first end token; the rest is padding."""
    end = next((at for at, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]
