"""Completions of a model by the functions of the transformers backend, without its files of answers."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from orpo_cli.evaluation.generation import (
    Completion,
    SamplingParams,
    check_context_lengths,
    complete_batch,
    plan_batches,
    stop_token_ids,
)
from orpo_cli.evaluation.prompts import Prompt


def generate_completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    end_token_ids: frozenset[int],
    batch_size: int | None = None,
) -> list[Completion]:
    """Generate a completion for each prompt, in their order. Prompts of similar length share a batch.

    Completions do not depend on ``batch_size``, up to rounding: sampling has a seed of its own for each prompt. Raises
    UsageError where a prompt and its completion do not fit into the model's context, MachineError where the memory is too small.
    """
    check_context_lengths(model, prompts, sampling)
    stops = stop_token_ids(model, tokenizer, end_token_ids)
    completions: dict[int, Completion] = {}
    for batch in plan_batches(model, prompts, sampling, batch_size):
        completions |= zip(batch, complete_batch(model, tokenizer, prompts, batch, sampling, stops), strict=True)
    return [completions[index] for index in range(len(prompts))]
