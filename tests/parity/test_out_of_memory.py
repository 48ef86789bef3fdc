"""Out-of-memory errors in the middle of a step change neither the run's result nor its state."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_llama, tiny_tokenizer, write_pairs

from orpo_cli.data.prepare import prepare
from orpo_cli.errors import MachineError
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.parity_check import CHECKED_PAIRS
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer
from orpo_cli.training.packed_scoring import PackedScoring

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
    inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train)
    return make_trainer(plan, folder / "out", inputs, [], notes.append)


def train_and_copy_weights(trainer: Any) -> Weights:
    trainer.train()
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}


@contextmanager
def out_of_memory_at(monkeypatch: pytest.MonkeyPatch, failures: Iterable[tuple[int, str]]) -> Iterator[list[int]]:
    """Context in which the n-th micro-batch of the run, repeated ones counted, fails in its forward or backward pass.

    Yields the token limit of each micro-batch.
    """
    original, due, budgets = Engine.loss_share, dict(failures), list[int]()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")

    def failing_loss_share(engine: Engine, model: Any, batch: Any) -> torch.Tensor:
        if engine._totals.num_pairs <= CHECKED_PAIRS:  # the comparison of the first pairs
            return original(engine, model, batch)
        budgets.append(engine.max_tokens)
        when = due.get(len(budgets))
        layer = model.get_base_model().model.layers[0]
        hook = layer.register_forward_hook(lambda *given: given[-1].register_hook(fail) and None)
        if when != "backward":
            hook.remove()
        result = original(engine, model, batch)
        hook.remove()
        if when == "forward":
            torch.rand(3)  # random numbers drawn by the failed try
            fail()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "loss_share", failing_loss_share)
        yield budgets


def bit_identical(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("budget", [1, 90, 1000])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_out_of_memory_at_random_micro_batches_leaves_results_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, budget: int
) -> None:
    notes: list[str] = []
    with out_of_memory_at(monkeypatch, ()) as computed:
        expected = train_and_copy_weights(trainer_for(tmp_path, [], budget=budget, dropout=0.2))
    draw = random.Random(seed)
    failures, at = [], draw.randint(1, 3)
    while at <= len(computed):
        failures.append((at, draw.choice(["forward", "backward"])))
        at += draw.randint(5, 8)  # a step has four at most, so what failed is computed before the next one fails
    with out_of_memory_at(monkeypatch, failures) as again:
        found = train_and_copy_weights(trainer_for(tmp_path, notes, budget=budget, dropout=0.2))
    assert bit_identical(found, expected)
    assert len(notes) == len(failures)
    assert all("out of memory in step" in note for note in notes)
    assert "checkpointing" in notes[0]
    assert len(again) > len(computed)
    assert set(again) == {budget}


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_out_of_memory_in_threads_leaves_results_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    loss_share = Engine.loss_share

    def record_thread(engine: Engine, model: Any, batch: Any) -> torch.Tensor:
        names.add(threading.current_thread().name)
        return loss_share(engine, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "loss_share", record_thread)
        expected = train_and_copy_weights(trainer_for(tmp_path, [], budget=1000))
    assert len(names) == 2
    notes: list[str] = []
    with out_of_memory_at(monkeypatch, [(3, "forward"), (8, "backward"), (14, "backward")]):
        found = train_and_copy_weights(trainer_for(tmp_path, notes, budget=1000))
    assert len(notes) == 3
    assert "checkpointing" in notes[0]
    assert bit_identical(found, expected)


def test_only_large_micro_batches_are_checkpointed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    trainer = trainer_for(tmp_path, notes, budget=1)
    with out_of_memory_at(monkeypatch, [(5, "backward")]):
        trainer.train()
    above = trainer.checkpointing.threshold
    ran: list[bool] = []
    layer = trainer.model.get_base_model().model.layers[0]
    layer.input_layernorm.register_forward_hook(lambda *_: ran.append(True))
    for tokens, times in ((above, 1), (above + 1, 2)):
        ran.clear()
        with trainer.checkpointing.applied(tokens):
            trainer.model(input_ids=torch.ones((1, 5), dtype=torch.int64)).logits.sum().backward()
        assert len(ran) == times
    assert f"over {above} tokens" in notes[0]


def test_a_checkpointed_single_pair_that_runs_out_of_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(tmp_path, [], budget=1)
    with (
        out_of_memory_at(monkeypatch, [(at, "forward") for at in (2, 3, 4, 5, 6)]),
        pytest.raises(MachineError) as caught,
    ):
        train_and_copy_weights(trainer)
    assert "a pair of" in str(caught.value)
    assert "max_length" in caught.value.remedy


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_halved_micro_batches_change_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    notes: list[str] = []
    trainer = trainer_for(tmp_path, notes, budget=1000, dropout=0.2)
    first = random.Random(seed).randint(1, 5)
    failures = [(at, random.Random(seed + at).choice(["forward", "backward"])) for at in range(first, first + 3)]
    with out_of_memory_at(monkeypatch, failures):
        found, limits = train_and_record_limits(trainer)
    assert len(notes) == 3
    assert limits[0] >= limits[-1]
    assert limits[-1] < 1000

    # The same micro-batches from the start, with enough memory: bit-identical, dropout included.
    budgets = iter(limits)
    parts = Engine.micro_batches

    def split_as_before(engine: Engine, pairs: Any) -> Any:
        if engine._totals.num_pairs > CHECKED_PAIRS:
            engine.max_tokens = next(budgets)
        return parts(engine, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "micro_batches", split_as_before)
        assert bit_identical(found, train_and_copy_weights(trainer_for(tmp_path, [], budget=1000, dropout=0.2)))


def test_halved_micro_batches_give_the_same_weights_within_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with out_of_memory_at(monkeypatch, [(at, "backward") for at in (1, 2, 3)]):
        found = train_and_copy_weights(trainer_for(tmp_path, [], budget=1000))
    expected = train_and_copy_weights(trainer_for(tmp_path, [], budget=1000))
    assert not bit_identical(found, expected)  # sums are rounded in another order
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=2e-6)


def test_out_of_memory_in_an_evaluation_changes_no_training_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    events: list[tuple[str, str]] = []
    trainer = trainer_for(tmp_path, notes, budget=1000)
    trainer.eval_batch_pairs = 4
    trainer.report_event = lambda name, message: events.append((name, message))
    pairs = torch.utils.data.Subset(trainer.train_dataset, range(4))
    expected = trainer.evaluate(pairs)["eval_loss"]
    score, sizes = PackedScoring.score, list[int]()

    def score_or_fail(scoring: PackedScoring, model: Any, batch: Any, device: torch.device, **options: Any) -> None:
        sizes.append(len(batch))
        score(scoring, model, batch, device, **options)
        if len(sizes) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")

    monkeypatch.setattr(PackedScoring, "score", score_or_fail)
    found = trainer.evaluate(pairs)["eval_loss"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert ["free now" in notes[0], "divided into parts of 2 and 2" in notes[1]] == [True, True]
    assert events == [("oom", notes[0]), ("oom", notes[1])]
    assert sizes == [4, 4, 2, 2]
    assert trainer.engine.max_tokens == 1000
    assert trainer.checkpointing.threshold == float("inf")


def train_and_record_limits(trainer: Any) -> tuple[Weights, list[int]]:
    """The weights, and the token limit with which each step finished."""
    finished: list[int] = []
    store = trainer.store_metrics
    trainer.store_metrics = lambda *given, **named: (
        finished.append(trainer.engine.max_tokens),
        store(*given, **named),
    )[1]
    return train_and_copy_weights(trainer), finished
