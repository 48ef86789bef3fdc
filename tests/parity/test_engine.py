"""The fast path against trl's own code on every architecture: loss, metrics and every gradient, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import PACKED, REFUSED, build
from support.steps import BETA, EXACT, TrlStep, adapted, assert_same, gradients, ours, random_pairs, trl_batch

from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.packing_support import packing_obstacle
from orpo_cli.plan.plan import ModelPlan
from orpo_cli.training.engine import orpo_loss
from orpo_cli.training.engine.packing import pack, packed_length, split_into_groups

EAGER = {"gemma2", "gpt-oss"}  # transformers computes their softmax in float32; in float64 it gives NaN at padding


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", PACKED)
def test_loss_metrics_and_gradients_equal_trls(name: str, lora: bool) -> None:
    dtype = torch.float32 if name in EAGER else torch.float64
    options = {"exclude_modules": ["router"]} if name == "llama4" else {}  # its router is a Linear that returns a pair
    model = adapted(build(PACKED[name](), dtype), lora, **options)
    model.eval()  # no dropout
    assert packing_obstacle(model.get_base_model() if lora else model, 64) is None
    pairs = random_pairs(len(name))
    loss_, metrics_ = TrlStep()(model, pairs)
    loss_.backward()
    theirs = gradients(model)
    mine, metrics, _ = ours(model, pairs)
    assert mine == pytest.approx(loss_.item(), rel=EXACT)
    for key in metrics_.keys() - {"logits/chosen", "logits/rejected"}:  # those of trl are taken over padding as well
        # trl takes differences of log-probabilities in float32
        assert metrics[key] == pytest.approx(metrics_[key], rel=EXACT, abs=1e-6), key
    assert_same(gradients(model), theirs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_its_reason(name: str) -> None:
    config, words = REFUSED[name]
    reason = packing_obstacle(build(config()), 256)
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_cutting_a_step_changes_no_gradient(name: str) -> None:
    model = build(PACKED[name]()).eval()
    pairs = random_pairs(11, count=6)
    whole, metrics, parts = ours(model, pairs)
    assert parts == 1
    expected = gradients(model)
    sizes = sorted(map(packed_length, pairs))
    seen = {parts}
    for budget in (sum(sizes) // 2 + sizes[-1], sum(sizes) // 3 + sizes[-1], sizes[-1], 1):
        loss_, metrics_, parts = ours(model, pairs, budget)
        seen.add(parts)
        assert loss_ == pytest.approx(whole, rel=1e-9)
        assert metrics_ == pytest.approx(metrics, rel=1e-6)
        assert_same(gradients(model), expected, 1e-6)
    assert len(pairs) in seen
    assert len(seen) > 2


def test_the_loss_without_the_prompt_counts_the_chosen_answer_alone() -> None:
    model = build(PACKED["llama"]()).eval()
    pairs = random_pairs(5)
    batch = trl_batch(pairs)
    outputs = TrlStep().concatenated_forward(model, batch)
    logps, labels = outputs[2].log_softmax(-1), batch["chosen_labels"][:, 1:]
    counted = labels != -100
    nll = -logps[:, : labels.shape[1]].gather(-1, labels.clamp(0)[..., None]).squeeze(-1)[counted].mean()
    expected = nll - TrlStep().odds_ratio_loss(*outputs[:2])[0].mean()
    expected.backward()
    theirs = gradients(model)
    mine, metrics, _ = ours(model, pairs, loss_on_prompt=False)
    assert mine == pytest.approx(expected.item(), rel=EXACT)
    assert metrics["nll_loss"] == pytest.approx(nll.item(), rel=EXACT)
    assert_same(gradients(model), theirs)


def test_mean_logits_equal_trls_where_nothing_is_padded() -> None:
    model = build(PACKED["cohere"]()).eval()
    pairs = [pair._replace(rejected=pair.chosen.flip(0)) for pair in random_pairs(3, count=1)]
    metrics_ = TrlStep()(model, pairs)[1]
    metrics = ours(model, pairs)[1]
    for key in ("logits/chosen", "logits/rejected"):
        assert metrics[key] == pytest.approx(metrics_[key], rel=EXACT)


@pytest.mark.parametrize(
    "options", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}], ids=str
)
def test_a_trained_or_adapted_head_gets_its_gradients(options: dict[str, Any]) -> None:
    model = adapted(build(PACKED["granite"]()), True, **options).eval()
    pairs = random_pairs(9)
    loss_ = TrlStep()(model, pairs)[0]
    loss_.backward()
    theirs = gradients(model)
    assert any("lm_head" in name for name in theirs)
    assert ours(model, pairs)[0] == pytest.approx(loss_.item(), rel=EXACT)
    assert_same(gradients(model), theirs)


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = build(PACKED["mistral-window"]()).train()
    pairs = random_pairs(2)
    loss_ = ours(model, pairs)[0]
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    assert ours(model, pairs)[0] == pytest.approx(loss_, rel=1e-12)
    assert_same(gradients(model), plain, 1e-12)


def test_pairs_are_packed_within_the_budget_and_none_is_lost() -> None:
    pairs = random_pairs(4, count=30)
    for budget in (1, 50, 100, 10_000):
        groups = split_into_groups(pairs, budget)
        assert sorted(pair.row for group in groups for pair in group) == sorted(pair.row for pair in pairs)
        assert all(len(group) == 1 or sum(map(packed_length, group)) <= budget for group in groups)
        assert groups == split_into_groups(pairs, budget)
    assert len(split_into_groups(pairs, 10_000)) == 1


def test_a_row_holds_each_token_once() -> None:
    pairs = random_pairs(8)
    batch = pack(pairs, loss_on_prompt=True)
    assert batch.input_ids.shape[1] == sum(map(packed_length, pairs))
    assert batch.input_ids.shape[1] < sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)


def test_the_loss_stays_finite_at_both_ends() -> None:
    batch = pack(random_pairs(6), loss_on_prompt=True)
    for value in (-1e-7, -30.0):
        logps = torch.full((len(batch.targets),), value, requires_grad=True)
        share, _ = orpo_loss.loss_share(logps, batch, orpo_loss.StepTotals(10, 5), BETA)
        share.backward()
        assert torch.isfinite(share)
        assert torch.isfinite(logps.grad).all()


def test_a_row_that_is_not_causal_is_refused_when_it_comes(tmp_path: Path) -> None:
    from orpo_cli.training.engine.packed_attention import UnsupportedAttention

    config = PACKED["gemma3"]()
    config.use_bidirectional_attention = True
    with pytest.raises(UnsupportedAttention):
        ours(build(config), random_pairs(1))


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_on_a_quantized_base_gets_trls_gradients(bits: str, tmp_path: Path) -> None:
    from support.tiny import save_tiny_model

    from orpo_cli.model.base_model import load_base
    from orpo_cli.recipe.schema import QuantizationSection

    section = ModelPlan(
        model_name_or_path=str(save_tiny_model(tmp_path / "model")), dtype="float32", attn_implementation="sdpa"
    )
    quantization = QuantizationSection.model_validate({bits: True, "bnb_4bit_compute_dtype": "float32"})
    model = adapted(load_base(ModelSource(section), quantization, "cpu"), True).eval()
    pairs = random_pairs(5)
    loss_ = TrlStep()(model, pairs)[0]
    loss_.backward()
    theirs = gradients(model)
    # Products with 8-bit weights are rounded to half precision; measured: 6e-4.
    tolerance = 1e-4 if bits == "load_in_4bit" else 5e-3
    assert ours(model, pairs)[0] == pytest.approx(loss_.item(), rel=tolerance)
    assert_same(gradients(model), theirs, tolerance)


def test_bfloat16_gives_the_same_loss_and_gradients_to_its_rounding() -> None:
    model = build(PACKED["llama"](), torch.bfloat16).eval()
    pairs = random_pairs(7)
    loss_ = TrlStep()(model, pairs)[0]
    loss_.backward()
    theirs = {name: each.float() for name, each in gradients(model).items()}
    assert ours(model, pairs)[0] == pytest.approx(loss_.item(), rel=1e-2)
    mine = {name: each.float() for name, each in gradients(model).items()}
    for name in theirs:
        assert torch.nn.functional.cosine_similarity(mine[name].flatten(), theirs[name].flatten(), dim=0) > 0.99, name
