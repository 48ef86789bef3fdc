"""Preference scores, compared with TRL's function and with float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import tiny_llama
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from orpo_cli.data.table import expand_pair
from orpo_cli.errors import RunError
from orpo_cli.evaluation.preference_scores import score_pairs

IGNORE_INDEX = -100  # label of a token outside the completion
VOCABULARY = 97
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
    "gemma2, which caps its logits": Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, final_logit_softcapping=2.0, initializer_range=0.2,
    ),
    "mamba, which has no attention": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.2,
    ),
}  # fmt: skip


def random_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as data.prepare makes them, of 1 to 30 tokens in each part."""
    generator = torch.Generator().manual_seed(seed)

    def draw(longest: int) -> list[int]:
        size = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return torch.randint(3, VOCABULARY, (size,), generator=generator).tolist()

    rows = []
    for index in range(count):
        prompt, chosen, rejected = draw(30), draw(12), draw(30)
        rows.append(
            {
                "pair": index + 100,
                "prompt_input_ids": prompt,
                "chosen_answer_ids": chosen,
                "rejected_answer_ids": rejected,
            }
        )
    return rows


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config).eval()


def reference(model: PreTrainedModel, row: dict[str, Any], side: str) -> torch.Tensor:
    """Log-probabilities of all tokens but the first, one sequence alone, log-softmax in float64: (tokens - 1,)."""
    ids = torch.tensor([expand_pair(row)[f"{side}_input_ids"]])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]


def mean_over_answer(model: PreTrainedModel, row: dict[str, Any], side: str) -> float:
    answer = torch.tensor(expand_pair(row)[f"{side}_labels"][1:]) != IGNORE_INDEX
    return reference(model, row, side)[answer].mean().item()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_equal_a_float64_reference_on_single_sequences(name: str) -> None:
    model, rows = model_of(ARCHITECTURES[name]), random_pairs(9)
    scores = score_pairs(model, rows, batch_size=4)
    for side, got in (("chosen", scores.chosen), ("rejected", scores.rejected)):
        assert got.tolist() == pytest.approx([mean_over_answer(model, row, side) for row in rows], abs=1e-5)
    assert scores.chosen.std() > 0.01, "a reference that is the same for all pairs would show nothing"


def test_scores_equal_trl_get_batch_logps() -> None:
    from trl.experimental.orpo import ORPOTrainer

    model, rows = model_of(ARCHITECTURES["llama"]), random_pairs(6)
    scores = score_pairs(model, rows)
    for side, got in (("chosen", scores.chosen), ("rejected", scores.rejected)):
        longest = max(len(expand_pair(row)[f"{side}_input_ids"]) for row in rows)
        pad = [longest - len(expand_pair(row)[f"{side}_input_ids"]) for row in rows]
        ids = torch.tensor([expand_pair(row)[f"{side}_input_ids"] + [0] * n for row, n in zip(rows, pad, strict=True)])
        mask = torch.tensor([[1] * (longest - n) + [0] * n for n in pad])
        labels = torch.tensor(
            [expand_pair(row)[f"{side}_labels"] + [IGNORE_INDEX] * n for row, n in zip(rows, pad, strict=True)]
        )
        with torch.inference_mode():
            logits = model(ids, attention_mask=mask).logits
        expected = ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
        assert got.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_nll_covers_all_tokens_of_prompt_and_chosen_completion_but_the_first() -> None:
    model, rows = model_of(ARCHITECTURES["llama"]), random_pairs(5)
    scores = score_pairs(model, rows, batch_size=3)
    assert scores.nll_tokens == sum(len(expand_pair(row)["chosen_input_ids"]) - 1 for row in rows)
    assert scores.nll == pytest.approx(-sum(reference(model, row, "chosen").sum().item() for row in rows), rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_do_not_depend_on_batching_and_padding(name: str) -> None:
    model, rows = model_of(ARCHITECTURES[name]), random_pairs(11)
    alone, together = score_pairs(model, rows, batch_size=1), score_pairs(model, rows)
    for batch_size in (2, 5, 22):
        other = score_pairs(model, rows, batch_size=batch_size)
        assert torch.allclose(other.chosen, alone.chosen, atol=1e-5, rtol=0)
        assert torch.allclose(other.rejected, together.rejected, atol=1e-5, rtol=0)
        assert other.nll == pytest.approx(alone.nll, rel=1e-6)


def test_swapping_chosen_and_rejected_swaps_the_scores() -> None:
    model, rows = model_of(ARCHITECTURES["llama"]), random_pairs(6)
    other = {"chosen": "rejected", "rejected": "chosen"}
    swapped = [{**row, **{f"{other[side]}_answer_ids": row[f"{side}_answer_ids"] for side in other}} for row in rows]
    before, after = score_pairs(model, rows), score_pairs(model, swapped)
    assert torch.allclose(before.chosen, after.rejected, atol=1e-5)
    assert torch.allclose(before.rejected, after.chosen, atol=1e-5)


def test_the_head_runs_only_at_scored_positions() -> None:
    model, rows = model_of(ARCHITECTURES["llama"]), random_pairs(6)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[..., 0].numel())
    )
    score_pairs(model, rows)
    answers = sum(sum(label != IGNORE_INDEX for label in expand_pair(row)["rejected_labels"]) for row in rows)
    assert sum(seen) == answers + sum(len(expand_pair(row)["chosen_input_ids"]) - 1 for row in rows)


def test_the_head_hook_is_removed() -> None:
    model, rows = model_of(ARCHITECTURES["llama"]), random_pairs(2)
    ids = torch.tensor([expand_pair(rows[0])["chosen_input_ids"]])
    with torch.inference_mode():
        before = model(ids).logits
        score_pairs(model, rows)
        assert torch.equal(model(ids).logits, before)


def test_log_softmax_of_a_bfloat16_model_is_taken_in_float32() -> None:
    model, rows = tiny_llama(VOCABULARY).to(torch.bfloat16).eval(), random_pairs(4)
    scores = score_pairs(model, rows, batch_size=1)
    for index, row in enumerate(rows):
        assert scores.rejected[index].item() == pytest.approx(mean_over_answer(model, row, "rejected"), abs=1e-5)


def test_progress_counts_every_completion() -> None:
    streamed: list[tuple[int, int]] = []
    score_pairs(
        model_of(ARCHITECTURES["gpt2"]), random_pairs(4), batch_size=3, progress=lambda *it: streamed.append(it)
    )
    assert streamed == [(3, 8), (6, 8), (8, 8)]


def test_non_finite_weights_are_an_error_that_names_pairs() -> None:
    model = model_of(ARCHITECTURES["llama"])
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(RunError, match=r"3 of 3 pairs: 100, 101, 102"):
        score_pairs(model, random_pairs(3))
