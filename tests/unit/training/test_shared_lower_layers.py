"""Shared lower layers: what base and tuned model have in common is computed once, with the same values bit for bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.random_rows import VOCABULARY, random_rows
from support.tiny import tiny_llama
from support.tiny_run import make_plan

from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.preference_scores import PairScores, score_pairs
from orpo_cli.planning.plan import EnginePlan
from orpo_cli.rundir import RunDir
from orpo_cli.training.packed_scoring import make_scorer
from orpo_cli.training.shared_lower_layers import shared_lower_layers

LAYERS = 4


def target_with(folder: Path, **lora: Any) -> EvalTarget:
    torch.manual_seed(3)
    settings = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **lora}
    model = get_peft_model(tiny_llama(VOCABULARY, layers=LAYERS), LoraConfig(task_type="CAUSAL_LM", **settings))
    model.peft_config["default"].init_lora_weights = True  # as in a saved adapter
    plan = make_plan(folder / "run", "unused/unused", engine=EnginePlan(fast_path="on", max_tokens_per_microbatch=120))
    return EvalTarget("run", model.eval(), None, RunDir(folder / "run"), plan)  # type: ignore[arg-type]


def count_layer_passes(model: Any) -> Counter[int]:
    passes: Counter[int] = Counter()
    for number, layer in enumerate(model.get_base_model().model.layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: passes.update([number]))
    return passes


def score_together(target: EvalTarget, rows: list[dict[str, Any]]) -> dict[Variant, PairScores] | None:
    return make_scorer(target.plan, {}).score_base_and_tuned(target, rows, lambda variant: None)


def test_layers_below_the_first_adapted_one_run_once_and_give_the_same_scores(tmp_path: Path) -> None:
    target, rows = target_with(tmp_path, layers_to_transform=[2, 3]), random_rows(11)
    scorer = make_scorer(target.plan, {})
    apart: dict[Variant, PairScores] = {}
    for variant in target.variants:
        with target.use_variant(variant) as model:
            apart[variant] = scorer(model, rows)
    passes = count_layer_passes(target.model)
    together = score_together(target, rows)
    assert together is not None
    for variant in target.variants:
        for name in ("chosen", "rejected"):
            assert torch.equal(getattr(together[variant], name), getattr(apart[variant], name))
        assert together[variant].nll == apart[variant].nll
    assert (together["base"].chosen - together["tuned"].chosen).abs().max() > 1e-3
    # Of a micro-batch twice in the upper layers, and once in the lower ones, but for the check of the shortest pair.
    assert passes[0] == passes[1]
    assert passes[2] == passes[3] == 2 * (passes[0] - 2) + 3
    assert "forward" not in target.model.get_base_model().model.layers[0].__dict__
    with target.use_variant("tuned") as model:  # the layers compute again
        padded = score_pairs(model, rows)
    torch.testing.assert_close(padded.chosen, together["tuned"].chosen, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "lora",
    [{}, {"layers_to_transform": [0, 3]}, {"target_modules": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens"], "layers_to_transform": [2]}],
    ids=["all layers", "the first layer", "embeddings", "saved embeddings"],
)  # fmt: skip
def test_nothing_is_shared_where_the_first_layer_or_its_input_is_trained(tmp_path: Path, lora: dict[str, Any]) -> None:
    target = target_with(tmp_path, **lora)
    assert shared_lower_layers(target.model) is None
    assert score_together(target, random_rows(3)) is None


def test_an_adapter_on_the_head_alone_shares_all_layers(tmp_path: Path) -> None:
    target = target_with(tmp_path, target_modules=["lm_head"])
    shared = shared_lower_layers(target.model)
    assert shared is not None
    assert len(shared.layers) == LAYERS


def test_a_layer_that_depends_on_more_than_its_input_is_not_shared(tmp_path: Path) -> None:
    target, rows = target_with(tmp_path, layers_to_transform=[2, 3]), random_rows(5)
    calls = iter(range(1000))
    last = target.model.get_base_model().model.layers[3]
    last.register_forward_hook(lambda *args: args[2] + 0.01 * next(calls))
    assert score_together(target, rows) is None
