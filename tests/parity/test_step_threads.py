"""Threads of a step: the same loss, metrics and gradients as one thread, on every architecture, and the same bits each time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import ParamWrapper
from support.architectures import PACKED, build
from support.steps import (
    BETA,
    assert_gradients_equal,
    gradients,
    packed_step,
    random_pairs,
    related_pairs,
    with_adapter,
)

from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.packing import TokenPair, packed_length
from orpo_cli.training.engine.step_threads import (
    FailedShare,
    StepThreads,
    TokenGate,
    busiest_tokens,
    share_step,
    suits_threads,
)


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threaded_step(model: Any, pairs: list[TokenPair], budget: int) -> tuple[float, dict[str, float]]:
    engine = Engine(model, model.device, beta=BETA, loss_on_prompt=True, max_tokens=budget)
    engine.start_step(pairs)
    shares = share_step(pairs, budget)
    assert shares is not None
    assert sorted(index for share in shares for group in share for index in group) == list(range(len(pairs)))
    loss = StepThreads(engine).compute(model, pairs, shares)
    return loss.item(), engine.metrics()


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", PACKED)
def test_threads_give_the_loss_metrics_and_gradients_of_one_thread(name: str, lora: bool) -> None:
    options = {"exclude_modules": ["router"]} if name == "llama4" else {}
    model = with_adapter(build(PACKED[name](), torch.float64), lora, **options).eval()
    if any(isinstance(module, ParamWrapper) for module in model.modules()):
        assert not suits_threads(model.float(), model.device)
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert suits_threads(model.float(), model.device) is lora
    model.double()
    pairs = [*random_pairs(len(name), count=8), *related_pairs(len(name))]
    expected_loss, expected_metrics, _ = packed_step(model, pairs)
    expected = gradients(model)
    for budget in (10_000, 2 * max(map(packed_length, pairs))):
        loss, metrics = threaded_step(model, pairs, budget)
        assert loss == pytest.approx(expected_loss, rel=1e-9)
        assert metrics == pytest.approx(expected_metrics, rel=1e-6)
        assert_gradients_equal(gradients(model), expected, 1e-6)
    assert torch.get_num_threads() == 2


def test_a_step_gives_the_same_bits_each_time() -> None:
    model = with_adapter(build(PACKED["llama"](), torch.float32), True)
    pairs = random_pairs(3, count=12)
    budget = 2 * max(map(packed_length, pairs))
    results = []
    for _ in range(5):
        results.append((threaded_step(model, pairs, budget), gradients(model)))
    (first, of_first), *others = results
    for found, of_found in others:
        assert found == first
        assert all(torch.equal(gradient, of_first[name]) for name, gradient in of_found.items())


def test_a_step_that_cannot_be_divided_is_not() -> None:
    long, *short = sorted(random_pairs(3, count=4), key=packed_length, reverse=True)
    assert share_step([long], 10_000) is None
    assert share_step([], 10_000) is None
    assert share_step([long, long], 10_000) is None  # they share all tokens
    assert share_step([long, *short], packed_length(long) + 1) is None  # no room beside the long one
    assert share_step([*short, long], 10_000) is not None


def test_threads_hold_no_more_tokens_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a pair has more than half of the tokens."""
    model = with_adapter(build(PACKED["llama"](), torch.float32), True)
    pairs = random_pairs(5, count=12)
    budget, live, most = 2 * max(map(packed_length, pairs)) - 1, list[int](), list[int]()
    admitted = TokenGate.admitted

    @contextmanager
    def record(gate: TokenGate, tokens: int) -> Iterator[None]:
        with admitted(gate, tokens):
            live.append(tokens)
            most.append(sum(live))
            try:
                yield
            finally:
                live.remove(tokens)

    monkeypatch.setattr(TokenGate, "admitted", record)
    threaded_step(model, pairs, budget)
    assert max(map(packed_length, pairs)) < max(most) <= budget


def test_the_duration_counts_a_wait_for_room() -> None:
    assert busiest_tokens([[5], [4]], 10) == 5
    assert busiest_tokens([[5, 5], [4]], 10) == 10
    assert busiest_tokens([[6], [5]], 10) == 11  # no room for both
    assert busiest_tokens([[6, 2], [4, 5]], 10) == 11  # the last one waits until 6
    assert busiest_tokens([[], []], 10) == 0


@pytest.mark.parametrize("thread", [0, 1])
def test_an_error_in_a_thread_ends_the_step_and_names_the_micro_batch(
    thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_adapter(build(PACKED["llama"](), torch.float32), True)
    pairs, loss_share = random_pairs(3, count=6), Engine.loss_share

    def fail_in_thread(engine: Engine, model: Any, batch: Any) -> torch.Tensor:
        if (threading.current_thread() is threading.main_thread()) == (thread == 0):
            raise MemoryError("no memory")
        return loss_share(engine, model, batch)

    monkeypatch.setattr(Engine, "loss_share", fail_in_thread)
    with pytest.raises(FailedShare) as failure:
        threaded_step(model, pairs, 10_000)
    assert isinstance(failure.value.error, MemoryError)
    assert failure.value.batch.num_pairs > 0
    assert torch.get_num_threads() == 2
    assert all(each.grad is None for each in model.parameters())
    monkeypatch.undo()
    assert threaded_step(model, pairs, 10_000)[0] == pytest.approx(packed_step(model, pairs)[0], rel=1e-5)


def test_dropout_and_half_precision_do_not_suit_threads() -> None:
    model = with_adapter(build(PACKED["llama"](), torch.float32), True)
    assert suits_threads(model, torch.device("cpu"))
    assert not suits_threads(model, torch.device("cuda"))
    model.model.model.layers[0].mlp.act_fn = torch.nn.Dropout(0.1)
    assert not suits_threads(model, torch.device("cpu"))
    assert not suits_threads(with_adapter(build(PACKED["llama"](), torch.bfloat16), True), torch.device("cpu"))
