"""Packed scoring: the scores of padded batches, with and without an adapter, and where a model cannot be packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.random_rows import VOCABULARY, random_rows
from support.tiny import tiny_llama
from support.tiny_run import make_plan
from transformers import AutoModelForCausalLM, Gemma2Config, MambaConfig

from orpo_cli.evaluation.preference_scores import PairScores, score_pairs
from orpo_cli.planning.plan import EnginePlan, Plan
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.packing import pack, packed_length
from orpo_cli.training.packed_scoring import PackedScoring, make_scorer


def rows_with_common_prefix(count: int, prefix: list[int]) -> list[dict[str, Any]]:
    """Rows whose prompts begin with ``prefix``; the first one's has nothing else."""
    rows = random_rows(count)
    for row in rows:
        row["prompt_input_ids"] = [*prefix, *(row["prompt_input_ids"] if row["pair"] else [])]
    return rows


def plan_with(folder: Path, fast_path: str = "on", max_tokens: int = 120) -> Plan:
    engine = EnginePlan(fast_path=fast_path, max_tokens_per_microbatch=max_tokens)  # type: ignore[arg-type]
    return make_plan(folder / "run", "unused/unused", engine=engine)


def tuned(model: Any) -> Any:
    torch.manual_seed(2)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).eval()


def assert_close(found: PairScores, expected: PairScores) -> None:
    for name in ("chosen", "rejected"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)
    assert found.nll == pytest.approx(expected.nll, rel=1e-6)
    assert found.nll_tokens == expected.nll_tokens
    assert torch.equal(found.longer, expected.longer)  # type: ignore[arg-type]
    for name in ("logits_chosen", "logits_rejected"):
        if getattr(found, name) == getattr(found, name):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 6])
@pytest.mark.parametrize("loss_on_prompt", [True, False])
def test_packed_scores_equal_padded_ones(tmp_path: Path, loss_on_prompt: bool, batch_size: int | None) -> None:
    model, rows = tuned(tiny_llama(VOCABULARY)), random_rows(11)
    score, options = make_scorer(plan_with(tmp_path), {}), {"loss_on_prompt": loss_on_prompt, "batch_size": batch_size}
    with_adapter = score(model, rows, **options)
    assert_close(with_adapter, score_pairs(model, rows, **options))
    with model.disable_adapter():
        base = score(model, rows, **options)
        assert_close(base, score_pairs(model, rows, **options))
    assert (base.chosen - with_adapter.chosen).abs().max() > 1e-3
    assert_close(score(model, rows, **options), with_adapter)  # the adapter is in use again


@pytest.mark.parametrize("loss_on_prompt", [True, False])
def test_what_all_prompts_begin_with_is_computed_once_a_micro_batch(tmp_path: Path, loss_on_prompt: bool) -> None:
    model, rows = tuned(tiny_llama(VOCABULARY)), rows_with_common_prefix(9, list(range(3, 20)))
    engine = Engine(model, model.device, beta=0.0, loss_on_prompt=loss_on_prompt, max_tokens=120)
    scoring = PackedScoring(rows, engine, 120, loss_on_prompt)
    for group in scoring.batches(model, model.device):
        pairs = [scoring.pairs[index] for index in group]
        packed = pack(pairs, loss_on_prompt)
        assert packed.num_tokens == sum(map(packed_length, pairs)) - 17 * (len(pairs) - 1)
        assert packed.num_tokens <= 120 or len(pairs) == 1
    found = make_scorer(plan_with(tmp_path), {})(model, rows, loss_on_prompt=loss_on_prompt)
    assert_close(found, score_pairs(model, rows, loss_on_prompt=loss_on_prompt))


def test_a_sliding_window_reaches_into_the_common_prefix(tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, initializer_range=0.2, final_logit_softcapping=None,
    )  # fmt: skip
    model, rows = AutoModelForCausalLM.from_config(config).eval(), rows_with_common_prefix(6, list(range(3, 15)))
    assert_close(make_scorer(plan_with(tmp_path), {})(model, rows), score_pairs(model, rows))


def test_scoring_changes_no_weight(tmp_path: Path) -> None:
    model, rows = tuned(tiny_llama(VOCABULARY)), random_rows(11)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_scorer(plan_with(tmp_path), {})(model, rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_single_model_is_packed_where_both_paths_agree() -> None:
    model, rows = tiny_llama(VOCABULARY).eval(), random_rows(7)
    score = make_scorer(None, {})
    found, expected = score(model, rows), score_pairs(model, rows)
    assert_close(found, expected)
    assert not torch.equal(found.chosen, expected.chosen)  # another order of sums

    def double_logits(_module: Any, _inputs: Any, output: Any) -> None:
        output.logits = output.logits * 2

    model.register_forward_hook(double_logits)  # after the head, where the packed path does not see it
    assert torch.equal(score(model, rows).chosen, score_pairs(model, rows).chosen)
    assert (score_pairs(model, rows).chosen - expected.chosen).abs().max() > 1e-3


def test_a_model_that_caps_its_logits_has_no_mean_logits(tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, final_logit_softcapping=2.0, initializer_range=0.2,
    )  # fmt: skip
    model, rows = AutoModelForCausalLM.from_config(config).eval(), random_rows(5)
    scores = make_scorer(plan_with(tmp_path), {})(model, rows)
    assert_close(scores, score_pairs(model, rows))
    assert scores.logits_chosen != scores.logits_chosen


@pytest.mark.parametrize(("fast_path", "run"), [("off", {}), ("on", {"fast_path": False}), ("on", {})])
def test_padded_batches_where_training_had_no_packed_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_path: str, run: dict[str, Any]
) -> None:
    """Trl's own path by the recipe, or because a comparison failed, or because the model cannot be packed."""
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    recurrent = fast_path == "on" and not run
    model = AutoModelForCausalLM.from_config(config).eval() if recurrent else tiny_llama(VOCABULARY).eval()
    monkeypatch.setattr(PackedScoring, "score", None)  # an error if it is used
    rows = random_rows(4)
    found = make_scorer(plan_with(tmp_path, fast_path), run)(model, rows)
    assert torch.equal(found.chosen, score_pairs(model, rows).chosen)
