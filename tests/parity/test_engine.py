"""Packed step against trl's code on every architecture: loss, metrics and every gradient, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import PACKED, REFUSED, build
from support.steps import (
    BETA,
    RTOL,
    TrlStep,
    assert_gradients_equal,
    gradients,
    packed_step,
    pad_for_trl,
    random_pairs,
    related_pairs,
    with_adapter,
)

from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.training.engine import orpo_loss, prefix_tree
from orpo_cli.training.engine.packing import pack, packed_length, split_into_groups

EAGER = {"gemma2", "gpt-oss"}  # transformers computes their softmax in float32; in float64 it gives NaN at padding


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", PACKED)
def test_loss_metrics_and_gradients_equal_trls(name: str, lora: bool) -> None:
    dtype = torch.float32 if name in EAGER else torch.float64
    options = {"exclude_modules": ["router"]} if name == "llama4" else {}  # its router is a Linear that returns a pair
    model = with_adapter(build(PACKED[name](), dtype), lora, **options)
    model.eval()  # no dropout
    assert packing_obstacle(model.get_base_model() if lora else model, 64) is None
    pairs = [*random_pairs(len(name)), *related_pairs(len(name))]
    assert pack(pairs, loss_on_prompt=True).num_tokens < sum(map(packed_length, pairs)) / 1.5
    trl_loss, trl_metrics = TrlStep()(model, pairs)
    trl_loss.backward()
    trl_gradients = gradients(model)
    packed, metrics, _ = packed_step(model, pairs)
    assert packed == pytest.approx(trl_loss.item(), rel=RTOL)
    for key in trl_metrics.keys() - {"logits/chosen", "logits/rejected"}:  # those of trl are taken over padding as well
        # trl takes differences of log-probabilities in float32
        assert metrics[key] == pytest.approx(trl_metrics[key], rel=RTOL, abs=1e-6), key
    assert_gradients_equal(gradients(model), trl_gradients)


@pytest.mark.parametrize("name", REFUSED)
def test_architectures_without_exact_packing_are_refused_with_a_reason(name: str) -> None:
    config, text = REFUSED[name]
    reason = packing_obstacle(build(config()), 256)
    assert reason is not None
    assert text in reason


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_splitting_a_step_into_micro_batches_changes_no_gradient(name: str) -> None:
    model = build(PACKED[name]()).eval()
    pairs = random_pairs(11, count=6)
    expected_loss, expected_metrics, count = packed_step(model, pairs)
    assert count == 1
    expected = gradients(model)
    sizes = sorted(map(packed_length, pairs))
    counts = {count}
    for budget in (sum(sizes) // 2 + sizes[-1], sum(sizes) // 3 + sizes[-1], sizes[-1], 1):
        loss, metrics, count = packed_step(model, pairs, budget)
        counts.add(count)
        assert loss == pytest.approx(expected_loss, rel=1e-9)
        assert metrics == pytest.approx(expected_metrics, rel=1e-6)
        assert_gradients_equal(gradients(model), expected, 1e-6)
    assert len(pairs) in counts
    assert len(counts) > 2


def test_loss_on_prompt_false_covers_the_chosen_completion_alone() -> None:
    model = build(PACKED["llama"]()).eval()
    pairs = random_pairs(5)
    batch = pad_for_trl(pairs)
    outputs = TrlStep().concatenated_forward(model, batch)
    logps, labels = outputs[2].log_softmax(-1), batch["chosen_labels"][:, 1:]
    counted = labels != -100
    nll = -logps[:, : labels.shape[1]].gather(-1, labels.clamp(0)[..., None]).squeeze(-1)[counted].mean()
    expected = nll - TrlStep().odds_ratio_loss(*outputs[:2])[0].mean()
    expected.backward()
    trl_gradients = gradients(model)
    packed, metrics, _ = packed_step(model, pairs, loss_on_prompt=False)
    assert packed == pytest.approx(expected.item(), rel=RTOL)
    assert metrics["nll_loss"] == pytest.approx(nll.item(), rel=RTOL)
    assert_gradients_equal(gradients(model), trl_gradients)


def test_mean_logits_equal_trls_without_padding() -> None:
    model = build(PACKED["cohere"]()).eval()
    pairs = [pair._replace(rejected=pair.chosen.flip(0)) for pair in random_pairs(3, count=1)]
    trl_metrics = TrlStep()(model, pairs)[1]
    metrics = packed_step(model, pairs)[1]
    for key in ("logits/chosen", "logits/rejected"):
        assert metrics[key] == pytest.approx(trl_metrics[key], rel=RTOL)


@pytest.mark.parametrize(
    "options", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}], ids=str
)
def test_a_trained_or_adapted_head_gets_its_gradients(options: dict[str, Any]) -> None:
    model = with_adapter(build(PACKED["granite"]()), True, **options).eval()
    pairs = random_pairs(9)
    trl_loss = TrlStep()(model, pairs)[0]
    trl_loss.backward()
    trl_gradients = gradients(model)
    assert any("lm_head" in name for name in trl_gradients)
    assert packed_step(model, pairs)[0] == pytest.approx(trl_loss.item(), rel=RTOL)
    assert_gradients_equal(gradients(model), trl_gradients)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = build(PACKED["mistral-window"]()).train()
    pairs = random_pairs(2)
    loss = packed_step(model, pairs)[0]
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    assert packed_step(model, pairs)[0] == pytest.approx(loss, rel=1e-12)
    assert_gradients_equal(gradients(model), plain, 1e-12)


def test_groups_of_pairs_respect_the_token_limit_and_lose_no_pair() -> None:
    pairs = [*random_pairs(4, count=30), *related_pairs(4)]
    for budget in (1, 50, 100, 10_000):
        groups = split_into_groups(pairs, budget)
        assert sorted(index for group in groups for index in group) == list(range(len(pairs)))
        packed = [pack([pairs[index] for index in group], loss_on_prompt=True) for group in groups]
        assert all(batch.num_pairs == 1 or batch.num_tokens <= budget for batch in packed)
        assert groups == split_into_groups(pairs, budget)
    assert len(split_into_groups(pairs, 10_000)) == 1


def test_pairs_that_share_a_beginning_are_in_one_micro_batch() -> None:
    """Four conversations, of which each fits a micro-batch only where its pairs share their tokens."""
    conversations = [related_pairs(seed)[:6] for seed in range(4)]
    together = [pack(pairs, loss_on_prompt=True).num_tokens for pairs in conversations]
    mixed = [pair for pairs in zip(*conversations, strict=True) for pair in pairs]
    groups = split_into_groups(mixed, max(together))
    assert sorted(sorted(index % 4 for index in group) for group in groups) == [[number] * 6 for number in range(4)]


def test_a_packed_row_has_each_shared_token_once() -> None:
    pairs = random_pairs(8)
    batch = pack(pairs, loss_on_prompt=True)
    assert batch.num_tokens == sum(map(packed_length, pairs))
    assert batch.num_tokens < sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)


def test_the_loss_is_finite_for_extreme_log_probabilities() -> None:
    batch = pack(random_pairs(6), loss_on_prompt=True)
    for value in (-1e-7, -30.0):
        log_probs = torch.full((len(batch.targets),), value, requires_grad=True)
        loss, _ = orpo_loss.loss_share(log_probs, batch, orpo_loss.StepTotals(10, 5), BETA)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(log_probs.grad).all()


def test_attention_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    from orpo_cli.training.engine.packed_attention import UnsupportedAttention

    config = PACKED["gemma3"]()
    config.use_bidirectional_attention = True
    with pytest.raises(UnsupportedAttention):
        packed_step(build(config), random_pairs(1))


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_on_a_quantized_base_gets_trls_gradients(bits: str, tmp_path: Path) -> None:
    from support.tiny import save_tiny_model

    from orpo_cli.model.base_model import load_base
    from orpo_cli.recipe.schema import QuantizationSection

    section = ModelPlan(
        model_name_or_path=str(save_tiny_model(tmp_path / "model")), dtype="float32", attn_implementation="sdpa"
    )
    quantization = QuantizationSection.model_validate({bits: True, "bnb_4bit_compute_dtype": "float32"})
    model = with_adapter(load_base(ModelSource(section), quantization, "cpu"), True).eval()
    pairs = random_pairs(5)
    trl_loss = TrlStep()(model, pairs)[0]
    trl_loss.backward()
    trl_gradients = gradients(model)
    # Products with 8-bit weights are rounded to half precision; measured: 6e-4.
    tolerance = 1e-4 if bits == "load_in_4bit" else 5e-3
    assert packed_step(model, pairs)[0] == pytest.approx(trl_loss.item(), rel=tolerance)
    assert_gradients_equal(gradients(model), trl_gradients, tolerance)


def test_bfloat16_loss_and_gradients_equal_trls_within_rounding() -> None:
    model = build(PACKED["llama"](), torch.bfloat16).eval()
    pairs = random_pairs(7)
    trl_loss = TrlStep()(model, pairs)[0]
    trl_loss.backward()
    trl_gradients = {name: each.float() for name, each in gradients(model).items()}
    assert packed_step(model, pairs)[0] == pytest.approx(trl_loss.item(), rel=1e-2)
    packed = {name: each.float() for name, each in gradients(model).items()}
    for name in trl_gradients:
        assert (
            torch.nn.functional.cosine_similarity(packed[name].flatten(), trl_gradients[name].flatten(), dim=0) > 0.99
        ), name


def test_empty_prompts_and_beginnings_of_other_pairs_give_trls_gradients() -> None:
    model = build(PACKED["mistral-window"]()).eval()
    empty = [pair._replace(prompt=torch.empty(0, dtype=torch.int64)) for pair in random_pairs(4, count=4)]
    prefix = empty[0]._replace(chosen=empty[0].chosen[:2], rejected=torch.cat((empty[0].chosen, empty[1].chosen)))
    pairs = [*empty, prefix, *related_pairs(4)]
    trl_loss = TrlStep()(model, pairs)[0]
    trl_loss.backward()
    trl_gradients = gradients(model)
    assert packed_step(model, pairs)[0] == pytest.approx(trl_loss.item(), rel=RTOL)
    assert_gradients_equal(gradients(model), trl_gradients)


def test_shared_beginnings_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, in float32 in some parts of the model; the chunked mask counts positions along the path."""
    model = build(PACKED["llama4"]()).eval()
    pairs = related_pairs(5)
    loss, metrics, _ = packed_step(model, pairs)
    found = gradients(model)
    monkeypatch.setattr(prefix_tree, "MIN_SHARED_PART", 2.0)  # of a pair's own sequences alone
    assert pack(pairs, loss_on_prompt=True).num_tokens == sum(map(packed_length, pairs))
    expected_loss, expected_metrics, _ = packed_step(model, pairs)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert metrics == pytest.approx(expected_metrics, rel=1e-6)
    assert_gradients_equal(found, gradients(model), 1e-6)
