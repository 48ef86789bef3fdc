"""Memory that runs out in the middle of a step changes neither the run's result nor its state."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer, write_pairs

from orpo_cli.data.prepare import prepare
from orpo_cli.errors import MachineError
from orpo_cli.machine import probe
from orpo_cli.plan.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.engine.check import CHECKED
from orpo_cli.training.engine.step import Engine
from orpo_cli.training.trl_door import make_trainer

Weights = dict[str, torch.Tensor]


def trainer_for(folder: Path, notes: list[str], *, budget: int, dropout: float = 0.0) -> Any:
    """Six steps of four pairs of a tiny Llama with an adapter."""
    write_pairs(folder / "train.jsonl", 24)
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "max_prompt_length": 128},
        "lora": {"r": 4, "target_modules": "all-linear", "lora_dropout": dropout},
        "training": {
            "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
            "max_length": 256, "save_strategy": "no", "use_cpu": True, "gradient_checkpointing": False,
        },
        "engine": {"fast_path": "required", "max_tokens_per_microbatch": budget},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    plan = resolve(load_recipe(str(folder / "recipe.yaml")), probe())
    tokenizer = tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=notes.append)
    notes.clear()
    return make_trainer(plan, folder / "out", tiny_llama(len(tokenizer)), tokenizer, data.train, None, [], notes.append)


def trained(trainer: Any) -> Weights:
    trainer.train()
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}


@contextmanager
def memory_running_out(monkeypatch: pytest.MonkeyPatch, failures: Iterable[tuple[int, str]]) -> Iterator[list[int]]:
    """The n-th micro-batch of the run, counted with those that are computed again, fails in its forward or backward pass.

    Gives the budget of each micro-batch.
    """
    whole, due, budgets = Engine.share, dict(failures), list[int]()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")

    def share(engine: Engine, model: Any, batch: Any) -> torch.Tensor:
        if engine._totals.pairs <= CHECKED:  # the comparison of the first pairs
            return whole(engine, model, batch)
        budgets.append(engine.budget)
        when = due.get(len(budgets))
        layer = model.get_base_model().model.layers[0]
        hook = layer.register_forward_hook(lambda *given: given[-1].register_hook(fail) and None)
        if when != "backward":
            hook.remove()
        result = whole(engine, model, batch)
        hook.remove()
        if when == "forward":
            torch.rand(3)  # random numbers that the failed try has drawn
            fail()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "share", share)
        yield budgets


def identical(mine: Weights, theirs: Weights) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_that_lie_alone_are_trained_bit_by_bit_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, when: str
) -> None:
    expected = trained(trainer_for(tmp_path, [], budget=1, dropout=0.2))
    notes: list[str] = []
    trainer = trainer_for(tmp_path, notes, budget=1, dropout=0.2)
    with memory_running_out(monkeypatch, [(random.Random(seed).randint(1, 20), when)]) as budgets:
        mine = trained(trainer)
    assert len(budgets) > 20
    assert identical(mine, expected)
    (note,) = notes
    assert "out of memory in step" in note
    assert "checkpointing" in note


def test_what_is_alone_and_computed_again_layer_by_layer_cannot_be_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(tmp_path, [], budget=1)
    with memory_running_out(monkeypatch, [(2, "forward"), (4, "forward")]), pytest.raises(MachineError) as caught:
        trained(trainer)
    assert "a pair of" in str(caught.value)
    assert "max_length" in caught.value.remedy


@pytest.mark.parametrize("seed", range(4))
def test_a_halved_budget_changes_nothing_but_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    failures = [(at, draw.choice(["forward", "backward"])) for at in draw.sample(range(1, 7), 2)]
    notes: list[str] = []
    trainer = trainer_for(tmp_path, notes, budget=1000, dropout=0.2)
    with memory_running_out(monkeypatch, failures):
        mine, begun = trained_and_budgets(trainer)
    assert len(notes) == 2
    assert begun[0] > begun[-1]

    # The same cuts from the beginning, and memory that suffices: bit by bit the same, dropout's random numbers included.
    budgets = iter(begun)
    parts = Engine.parts

    def cut_as_before(engine: Engine, pairs: Any) -> Any:
        if engine._totals.pairs > CHECKED:
            engine.budget = next(budgets)
        return parts(engine, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "parts", cut_as_before)
        assert identical(mine, trained(trainer_for(tmp_path, [], budget=1000, dropout=0.2)))


def test_a_halved_budget_gives_the_same_weights_to_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_running_out(monkeypatch, [(1, "backward"), (5, "forward")]):
        mine = trained(trainer_for(tmp_path, [], budget=1000))
    theirs = trained(trainer_for(tmp_path, [], budget=1000))
    assert not identical(mine, theirs)  # sums are rounded in another order
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=2e-6)


def trained_and_budgets(trainer: Any) -> tuple[Weights, list[int]]:
    """The weights, and the budget that each step was finished with."""
    finished: list[int] = []
    store = trainer.store_metrics
    trainer.store_metrics = lambda *given, **named: (finished.append(trainer.engine.budget), store(*given, **named))[1]
    return trained(trainer), finished
