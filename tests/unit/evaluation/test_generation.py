"""Text generation: greedy completions do not depend on batching, and stop at end tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from support.completions import generate_completions
from support.tiny import tiny_llama, tiny_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from orpo_cli.errors import UsageError
from orpo_cli.evaluation import generation
from orpo_cli.evaluation.generation import (
    INCOMPLETE_CHARACTER,
    Completion,
    SamplingParams,
    plan_batches,
    stop_token_ids,
)
from orpo_cli.evaluation.prompts import Prompt, PromptBuilder
from orpo_cli.evaluation.seeded_sampling import SeededSampling, uniforms_of_prompts

QUESTIONS = [
    "Why?",
    "What colour is the sky on a clear day, please?",
    "Name the river.",
    "Is it so? " * 9,
    "Water boils at",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    return tiny_llama(len(tokenizer)).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    builder = PromptBuilder(tokenizer, plain=False)
    return [builder.from_text(question) for question in QUESTIONS]


def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], **options: object
) -> list[Completion]:
    sampling = options.pop("sampling", SamplingParams(max_new_tokens=12))
    return generate_completions(model, tokenizer, prompts, sampling, **{"end_token_ids": frozenset({2}), **options})  # type: ignore[arg-type]


def greedy(model: LlamaForCausalLM, prompt: Prompt, tokens: int = 12) -> list[int]:
    """New tokens of one prompt, by taking the likeliest one a step, without generate() and without a cache."""
    ids = list(prompt.input_ids)
    for _ in range(tokens):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt.input_ids) :]


def test_greedy_completions_are_the_most_probable_tokens(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    got = answers(model, tokenizer, prompts)
    for answer, prompt in zip(got, prompts, strict=True):
        tokens = greedy(model, prompt)
        end = tokens.index(2) if 2 in tokens else None
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        assert answer.text == (text.rstrip(INCOMPLETE_CHARACTER) if end is None else text)
        assert answer.finished == (end is not None)


def test_greedy_completions_equal_generate_on_single_prompts(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    for prompt, answer in zip(prompts, answers(model, tokenizer, prompts, batch_size=8), strict=True):
        ids = torch.tensor([prompt.input_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == (text if answer.finished else text.rstrip(INCOMPLETE_CHARACTER))


@pytest.mark.parametrize("padding", ["<|endoftext|>", "<|im_end|>"])
def test_greedy_completions_do_not_depend_on_batching(model, tokenizer, prompts, padding) -> None:  # type: ignore[no-untyped-def]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = padding  # the second is in every prompt, as with SmolLM2
    alone = answers(model, tokenizer, prompts, batch_size=1)
    assert len({answer.text for answer in alone}) == len(prompts), "answers that are all the same would show nothing"
    for batch_size in (2, 3, 8):
        assert answers(model, tokenizer, prompts, batch_size=batch_size) == alone


def test_a_completion_ends_at_every_end_token(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    tokens = greedy(model, prompts[0])
    end = next(token for token in tokens[3:] if tokens.index(token) >= 3)
    position = tokens.index(end)
    by_template = answers(model, tokenizer, prompts[:1], end_token_ids=frozenset({end}))[0]
    model.generation_config.eos_token_id = [2, end]
    by_config = answers(model, tokenizer, prompts[:1])[0]
    assert by_template == by_config
    assert by_template.finished
    assert by_template.tokens == position + 1
    assert by_template.text == tokenizer.decode(tokens[:position], skip_special_tokens=True)


def test_a_completion_that_ends_early_has_no_padding(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    end = greedy(model, prompts[0])[1]
    alone = answers(model, tokenizer, prompts[:1], end_token_ids=frozenset({end}))
    together = answers(model, tokenizer, prompts, end_token_ids=frozenset({end}))
    assert together[0] == alone[0]
    assert together[0].tokens <= 2


def test_stop_tokens_are_those_of_config_tokenizer_and_template(model, tokenizer) -> None:  # type: ignore[no-untyped-def]
    model.generation_config.eos_token_id = [7, 9]
    assert stop_token_ids(model, tokenizer, frozenset({11})) == [2, 7, 9, 11]
    model.generation_config.eos_token_id = None
    assert stop_token_ids(model, tokenizer, frozenset()) == [tokenizer.eos_token_id]


def test_the_generation_config_of_the_model_does_not_change_greedy_completions(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    before = answers(model, tokenizer, prompts)
    for name, value in {
        "do_sample": True,
        "temperature": 3.0,
        "repetition_penalty": 4.0,
        "no_repeat_ngram_size": 1,
    }.items():
        setattr(model.generation_config, name, value)
    assert answers(model, tokenizer, prompts) == before


def test_sampled_completions_are_reproducible_with_a_seed(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    def sampled(seed: int | None) -> list[Completion]:
        return answers(model, tokenizer, prompts, sampling=SamplingParams(12, temperature=1.5, seed=seed))

    assert sampled(3) == sampled(3)
    assert sampled(3) != sampled(4)


def test_sampling_without_a_seed_draws_one_and_greedy_needs_none() -> None:
    assert SamplingParams(temperature=0.5).with_seed().seed is not None
    assert SamplingParams(temperature=0.5, seed=7).with_seed().seed == 7
    assert SamplingParams().with_seed().seed is None


def test_sampled_completions_do_not_depend_on_batching(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    sampling = SamplingParams(12, temperature=1.5, top_p=0.9, seed=3)
    alone = answers(model, tokenizer, prompts, sampling=sampling, batch_size=1)
    assert answers(model, tokenizer, prompts, sampling=sampling, batch_size=5) == alone
    assert answers(model, tokenizer, prompts[:1] * 3, sampling=sampling)[1] != alone[0]  # a seed of its own each


def test_finished_rows_leave_the_batch(model, tokenizer, prompts, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    expected = [greedy(model, prompt, 20) for prompt in prompts]
    ends = frozenset({expected[0][2], expected[3][9]})
    alone = answers(model, tokenizer, prompts, sampling=SamplingParams(20), end_token_ids=ends, batch_size=1)
    sampling = SamplingParams(20, temperature=1.5, seed=3)
    sampled = answers(model, tokenizer, prompts, sampling=sampling, end_token_ids=ends, batch_size=1)
    assert len({answer.tokens for answer in alone}) > 1, "rows that all end together would show nothing"
    monkeypatch.setattr(generation, "SEGMENT_TOKENS", 3)
    rows = []
    forward = model.forward

    def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
        rows.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    assert answers(model, tokenizer, prompts, sampling=SamplingParams(20), end_token_ids=ends) == alone
    assert rows[0] == len(prompts) > rows[-1]
    assert answers(model, tokenizer, prompts, sampling=sampling, end_token_ids=ends) == sampled


def test_seeded_sampling_draws_with_the_probabilities_of_the_model() -> None:
    scores = torch.tensor([[2.0, 0.0, -torch.inf, 1.0]]).expand(4000, 4)
    for top_p, logits in ((1.0, [2.0, 0.0, -torch.inf, 1.0]), (0.8, [2.0, -torch.inf, -torch.inf, 1.0])):
        sampler = SeededSampling(1.5, top_p, uniforms_of_prompts(1, range(4000), 1), prompt_length=2)
        drawn = sampler(torch.zeros(4000, 2, dtype=torch.long), scores).argmax(-1)
        found = torch.bincount(drawn, minlength=4) / 4000
        assert torch.allclose(found, (torch.tensor(logits) / 1.5).softmax(-1), atol=0.03)


def test_batches_have_prompts_of_similar_length_and_a_bounded_cache(model, tokenizer, prompts, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    lengths = [len(prompt.input_ids) for prompt in prompts]
    longest_first = sorted(range(5), key=lambda index: -lengths[index])
    plan = plan_batches(model, prompts, SamplingParams(10), 2)
    assert plan == [longest_first[:2], longest_first[2:4], longest_first[4:]]
    assert plan_batches(model, prompts, SamplingParams(10)) == [longest_first]
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # of tiny_llama: keys and values, layers, heads, head size, float32
    monkeypatch.setattr(generation, "CACHE_BYTES", 2 * (lengths[3] + 10) * bytes_per_token)
    plan = plan_batches(model, prompts, SamplingParams(10))
    assert plan[0] == longest_first[:2]
    assert len(plan) == 2


def test_a_tiny_top_p_is_greedy(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    sampling = SamplingParams(12, temperature=1.0, top_p=1e-6, seed=0)
    assert answers(model, tokenizer, prompts, sampling=sampling) == answers(model, tokenizer, prompts)


def test_a_prompt_beyond_the_context_is_an_error(model, tokenizer, prompts) -> None:  # type: ignore[no-untyped-def]
    fits = 512 - max(len(prompt.input_ids) for prompt in prompts)
    message = f"prompt 4 has {512 - fits} tokens; with {fits + 1} new ones that is more than the 512"
    with pytest.raises(UsageError, match=message):
        answers(model, tokenizer, prompts, sampling=SamplingParams(fits + 1))
    assert len(answers(model, tokenizer, prompts[3:4], sampling=SamplingParams(fits))) == 1
