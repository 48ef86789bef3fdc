"""Weights of pairs and of the NLL term: loss, metrics and gradients of both paths against a float64 reference, and steps with weights of 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import build
from support.json_lines import write_json_lines
from support.steps import BETA, assert_gradients_equal, gradients, packed_step, random_pairs, related_pairs
from support.tiny import pairs, tiny_llama, tiny_tokenizer
from torch.nn.functional import log_softmax
from transformers import LlamaConfig

from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.engine.packing import TokenPair
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

WEIGHTS = [0.25, 3.0, 1.0, 1.0, 0.001, 40.0]
CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    max_position_embeddings=128,
)  # fmt: skip


def token_log_probs(model: Any, pair: TokenPair, completion: torch.Tensor) -> torch.Tensor:
    """log p of every token of prompt and completion but the first, from one sequence without padding or packing."""
    sequence = torch.cat((pair.prompt, completion)).to(torch.int64)
    logits = model(input_ids=sequence[None]).logits[0, :-1].double()
    return log_softmax(logits, -1).gather(1, sequence[1:, None])[:, 0]


def reference(
    model: Any, step: list[TokenPair], *, beta: float = BETA, loss_on_prompt: bool = True, nll_weight: float = 1.0
) -> dict[str, Any]:
    """Weighted loss and means of a step, one pair after the other (Eq. 6 and 7 of arXiv 2403.07691)."""
    nll = tokens = ratios = correct = margins = total = torch.zeros((), dtype=torch.float64)
    for pair in step:
        of_chosen = token_log_probs(model, pair, pair.chosen)
        start = len(pair.prompt) - 1
        chosen = of_chosen[start:].mean()
        rejected = token_log_probs(model, pair, pair.rejected)[start:].mean()
        odds = (chosen - torch.log(1 - chosen.exp())) - (rejected - torch.log(1 - rejected.exp()))
        counted = of_chosen if loss_on_prompt else of_chosen[start:]
        nll, tokens = nll - pair.weight * counted.sum(), tokens + pair.weight * len(counted)
        ratios, total = ratios + pair.weight * torch.log(torch.sigmoid(odds)), total + pair.weight
        correct = correct + pair.weight * (chosen > rejected)
        margins = margins + pair.weight * beta * (chosen - rejected)
    return {
        "loss": nll_weight * nll / tokens - beta * ratios / total,
        "nll_loss": (nll / tokens).item(),
        "log_odds_ratio": (ratios / total).item(),
        "rewards/accuracies": (correct / total).item(),
        "rewards/margins": (margins / total).item(),
    }


def weighted_pairs(seed: int = 3) -> list[TokenPair]:
    """Pairs with weights; some of them share a beginning."""
    pairs = [*random_pairs(seed, count=len(WEIGHTS) // 2), *related_pairs(seed)][: len(WEIGHTS)]
    return [pair._replace(weight=weight) for pair, weight in zip(pairs, WEIGHTS, strict=True)]


LOSSES = [(True, 1.0), (False, 1.0), (True, 0.0), (False, 2.5)]  # loss_on_prompt, nll_weight


@pytest.mark.parametrize(("loss_on_prompt", "nll_weight"), LOSSES)
@pytest.mark.parametrize("max_tokens", [10_000, 60, 1])
def test_the_packed_step_equals_the_reference(max_tokens: int, loss_on_prompt: bool, nll_weight: float) -> None:
    model, step = build(CONFIG), weighted_pairs()
    expected = reference(model, step, loss_on_prompt=loss_on_prompt, nll_weight=nll_weight)
    expected.pop("loss").backward()
    expected_gradients = gradients(model)
    loss, metrics, _ = packed_step(model, step, max_tokens, loss_on_prompt, nll_weight)
    assert_gradients_equal(gradients(model), expected_gradients, 1e-6)
    assert loss == pytest.approx(
        nll_weight * expected["nll_loss"] - BETA * expected["log_odds_ratio"], rel=1e-9, abs=1e-9
    )
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-7, abs=1e-8), name


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_only_ratios_of_weights_matter(factor: float) -> None:
    model, step = build(CONFIG, torch.float32), weighted_pairs()
    loss, metrics, _ = packed_step(model, step)
    expected = gradients(model)
    scaled = [pair._replace(weight=pair.weight * factor) for pair in step]
    found, found_metrics, _ = packed_step(model, scaled)
    assert found == pytest.approx(loss, rel=1e-6)
    assert found_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert_gradients_equal(gradients(model), expected, 1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_of_two_is_a_pair_twice(seed: int) -> None:
    model, step = build(CONFIG), random_pairs(seed)
    doubled = [pair._replace(weight=2.0) if number % 2 else pair for number, pair in enumerate(step)]
    loss, metrics, _ = packed_step(model, doubled)
    expected = gradients(model)
    repeated = [*step, *(pair for number, pair in enumerate(step) if number % 2)]
    found, found_metrics, _ = packed_step(model, repeated)
    assert found == pytest.approx(loss, rel=1e-9)
    for name in metrics.keys() - {"logits/chosen", "logits/rejected"}:  # those are means over inputs, without weights
        assert found_metrics[name] == pytest.approx(metrics[name], rel=1e-7, abs=1e-8), name
    assert_gradients_equal(gradients(model), expected, 1e-8)


def test_tensors_of_ones_leave_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from orpo_cli.training.engine import packed_step as module

    model, step = build(CONFIG, torch.float32), random_pairs(3, count=6)
    loss, metrics, _ = packed_step(model, step, 60)
    expected = gradients(model)
    pack = module.pack

    def with_ones(*arguments: Any) -> Any:
        batch = pack(*arguments)
        assert batch.pair_weights is batch.nll_weights is None
        ones = torch.ones(batch.num_pairs, dtype=torch.float64)
        return replace(batch, pair_weights=ones, nll_weights=torch.ones(len(batch.nll_indices), dtype=torch.float64))

    monkeypatch.setattr(module, "pack", with_ones)
    assert packed_step(model, step, 60)[:2] == (loss, metrics)
    found = gradients(model)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


# Through the trainer

COUNT, HELD_OUT = 11, 5


def run(folder: Path, fast_path: str, weights: list[Any] | None, **training: Any) -> tuple[Any, Any]:
    """A trainer after its training, and the prepared pairs. ``weights``: of the train pairs and then of the held-out pairs."""
    folder.mkdir()
    rows = pairs(COUNT + HELD_OUT)
    for row, weight in zip(rows, weights or [], strict=False):
        row["importance"] = weight
    for name, part in (("train", rows[:COUNT]), ("eval", rows[COUNT:])):
        write_json_lines(folder / f"{name}.jsonl", part)
    columns = {"columns": {"weight": "importance"}} if weights else {}
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {
            **{name: {"path": str(folder / f"{name}.jsonl"), **columns} for name in ("train", "eval")},
            "max_prompt_length": 128,
        },
        "training": {
            "max_steps": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": COUNT, "learning_rate": 1e-2,
            "max_length": 256, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
            "gradient_checkpointing": False, "optim": "sgd", "lr_scheduler_type": "constant", **training,
        },
        "engine": {"fast_path": fast_path},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    plan, tokenizer = resolve(load_recipe(str(folder / "recipe.yaml")), probe()), tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=lambda _: None)
    inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train, data.eval)
    trainer = make_trainer(plan, folder / "out", inputs, [])
    trainer.train()
    trainer.evaluate()
    return trainer, data


def token_pairs(dataset: Any) -> list[TokenPair]:
    names = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
    return [
        TokenPair(row["row"], *(torch.tensor(row[name]) for name in names), weight=row.get("weight", 1.0))
        for row in dataset
    ]


DIFFERENT = [0.5 + 0.75 * (number % 4) for number in range(COUNT + HELD_OUT)]


@pytest.mark.parametrize(("loss_on_prompt", "nll_weight"), LOSSES)
def test_the_trained_step_and_the_evaluation_equal_the_reference(
    tmp_path: Path, loss_on_prompt: bool, nll_weight: float
) -> None:
    terms: dict[str, Any] = {"loss_on_prompt": loss_on_prompt, "nll_weight": nll_weight}
    trainer, data = run(tmp_path / "run", "required", DIFFERENT, **terms)
    model = tiny_llama(len(tiny_tokenizer())).double()
    step = token_pairs(data.train)
    assert [pair.weight for pair in step] == DIFFERENT[:COUNT]
    history = trainer.state.log_history
    for entry in [line for line in history if "loss" in line]:  # each step has all pairs
        expected = reference(model, step, beta=trainer.beta, **terms)
        assert entry["loss"] == pytest.approx(expected["loss"].item(), rel=1e-5)
        assert entry["nll_loss"] == pytest.approx(expected["nll_loss"], rel=1e-5)
        assert entry["log_odds_ratio"] == pytest.approx(expected["log_odds_ratio"], rel=1e-5)
        assert entry["rewards/accuracies"] == pytest.approx(expected["rewards/accuracies"])
        expected["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        assert entry["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
        torch.optim.SGD(model.parameters(), lr=1e-2).step()
        model.zero_grad()
    with torch.no_grad():
        expected = reference(model, token_pairs(data.eval), beta=trainer.beta, **terms)
    for name, value in expected.items():
        assert history[-1][f"eval_{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, COUNT), (COUNT, 1), (4, 3)])
@pytest.mark.parametrize(("weights", "loss_on_prompt", "nll_weight"), [
    (DIFFERENT, True, 1.0), (DIFFERENT, False, 1.0), (DIFFERENT, True, 0.5), (None, True, 0.0), (None, False, 2.5),
])  # fmt: skip
def test_trls_own_path_takes_the_weighted_mean_of_its_batches(
    tmp_path: Path,
    batch_size: int,
    accumulation: int,
    weights: list[Any] | None,
    loss_on_prompt: bool,
    nll_weight: float,
) -> None:
    terms: dict[str, Any] = {"loss_on_prompt": loss_on_prompt, "nll_weight": nll_weight}
    trainer, data = run(
        tmp_path / "run", "off", weights, **terms, per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation, max_steps=1, train_sampling_strategy="sequential",
    )  # fmt: skip
    model, step = tiny_llama(len(tiny_tokenizer())).double(), token_pairs(data.train)
    batches = [step[at : at + batch_size] for at in range(0, COUNT, batch_size)]
    found = [reference(model, batch, beta=trainer.beta, **terms) for batch in batches]
    shares = [sum(pair.weight for pair in batch) / len(batch) for batch in batches]
    entry = next(line for line in trainer.state.log_history if "loss" in line)
    loss = sum(weight * each["loss"] for weight, each in zip(shares, found, strict=True)) / sum(shares)
    assert entry["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name in ("nll_loss", "log_odds_ratio", "rewards/accuracies", "rewards/margins"):
        mean = sum(weight * each[name] for weight, each in zip(shares, found, strict=True)) / sum(shares)
        assert entry[name] == pytest.approx(mean, rel=1e-4, abs=1e-6), name
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
    assert entry["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("fast_path", ["required", "off"])
def test_weights_of_one_change_no_bit_of_a_run(tmp_path: Path, fast_path: str) -> None:
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    expected, _ = run(tmp_path / "without", fast_path, None, **options)
    found, data = run(tmp_path / "ones", fast_path, [1.0, 1, "1.0", *[1] * 13], **options)
    assert "weight" not in data.train.column_names
    assert data.report.weights == {}
    timed = ("runtime", "per_second", "preparation", "total_flos")
    for entry, expected_entry in zip(found.state.log_history, expected.state.log_history, strict=True):
        assert entry.keys() == expected_entry.keys()
        for name, value in expected_entry.items():
            if not any(part in name for part in timed):
                assert entry[name] == value, name
    weights = zip(found.model.parameters(), expected.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_both_paths_agree_where_a_step_is_one_batch(tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": COUNT, "gradient_accumulation_steps": 1}
    packed, _ = run(tmp_path / "packed", "required", DIFFERENT, **options)
    padded, _ = run(tmp_path / "padded", "off", DIFFERENT, **options)
    for entry, expected in zip(packed.state.log_history, padded.state.log_history, strict=True):
        for name in expected.keys() - {"logits/chosen", "logits/rejected"}:
            if "loss" in name and "runtime" not in name:
                assert entry[name] == pytest.approx(expected[name], rel=1e-5), name
