"""Sampler of Optuna: proposals inside the search space, reproducible, and better than chance."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orpo_cli.errors import MachineError
from orpo_cli.sweep.optuna_sampler import Observation, Sampler, propose, require_optuna
from orpo_cli.sweep.search_space import SearchSpace, parse_search_space


def space() -> SearchSpace:
    return parse_search_space(
        ["lora.target_modules=all-linear,[q_proj,v_proj]"], ["training.learning_rate=1e-6..1e-2:log", "lora.r=4..64"]
    )


def quality(values: dict[str, Any]) -> float:
    """Best at a learning rate of 1e-4 and a small rank."""
    return -abs(math.log10(values["training.learning_rate"]) + 4) - values["lora.r"] / 640


def run(count: int) -> list[Observation]:
    observed: list[Observation] = []
    for _ in range(count):
        values = propose(space(), 0, observed)
        assert values is not None
        observed.append(Observation(values, quality(values), complete=True))
    return observed


def test_proposals_are_in_the_search_space_and_reproducible() -> None:
    pytest.importorskip("optuna")
    observed = run(6)
    for each in observed:
        assert 1e-6 <= each.values["training.learning_rate"] <= 1e-2
        assert isinstance(each.values["lora.r"], int)
        assert each.values["lora.target_modules"] in ("all-linear", ["q_proj", "v_proj"])
    assert len({str(each.values) for each in observed}) == 6
    assert [each.values for each in run(6)] == [each.values for each in observed]


def test_the_estimator_learns_from_the_scores() -> None:
    pytest.importorskip("optuna")
    values = [each.value or 0.0 for each in run(30)]
    assert sum(values[20:]) / 10 > sum(values[:10]) / 10


def test_trials_that_train_failed_or_were_stopped_are_taken_into_account() -> None:
    pytest.importorskip("optuna")
    observed = run(3)
    observed += [
        Observation({**observed[0].values, "lora.r": 5}, None, complete=False),
        Observation({**observed[0].values, "lora.r": 6}, None, complete=False, failed=True),
        Observation({**observed[0].values, "lora.r": 7}, -2.0, complete=False, step=8),
    ]
    values = propose(space(), 0, observed)
    assert values is not None
    assert all(values != each.values for each in observed)


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 1_700_000_000_000])
def test_any_seed_of_a_sweep_has_proposals(seed: int) -> None:
    pytest.importorskip("optuna")
    assert propose(space(), seed, run(1)) is not None


def test_a_space_that_is_used_up_has_no_more_proposals() -> None:
    pytest.importorskip("optuna")
    small = parse_search_space(["lora.r=8,16"], [])
    observed = [Observation({"lora.r": value}, 0.5, complete=True) for value in (8, 16)]
    assert propose(small, 0, observed) is None


def test_without_optuna_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError) as caught:
        require_optuna(Sampler.TPE)
    assert "orpo-cli[optuna]" in (caught.value.remedy or "")
