"""Sampler of Optuna (extra ``optuna``): each trial is proposed from the scores of those before it.

The study is built from sweep.json for each proposal, so that an interrupted sweep goes on with the same proposals.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orpo_cli.errors import MachineError
from orpo_cli.sweep.search_space import Range, SearchSpace, Values

_MAX_DRAWS = 20  # for values that no trial has yet


class Sampler(StrEnum):
    """Way to choose the values of the next trial."""

    RANDOM = "random"
    TPE = "tpe"  # tree-structured Parzen estimator


@dataclass(frozen=True)
class Observation:
    """A trial so far. ``value``: None while it trains, and where it failed. ``complete``: it was neither stopped nor is it training."""

    values: Values
    value: float | None
    complete: bool
    failed: bool = False
    step: int = 0


def require_optuna(sampler: Sampler) -> None:
    """Raise MachineError where Optuna is not installed."""
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise MachineError(
            f"--sampler {sampler.value} needs the Python package optuna, which is not installed.",
            remedy="pip install 'orpo-cli[optuna]', or leave out --sampler: values are then drawn at random.",
        )


def propose(space: SearchSpace, seed: int, observed: Sequence[Observation]) -> Values | None:
    """The values of the next trial by TPE; None where it only repeats those of other trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(part) for key, part in space.parts.items()}
    for attempt in range(_MAX_DRAWS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an argument is experimental
            # constant_liar: trials at the same time get different values
            tpe_seed = (seed + len(observed) + 1000 * attempt) % 2**32  # numpy takes no larger one
            tpe = optuna.samplers.TPESampler(seed=tpe_seed, constant_liar=True)
            study = optuna.create_study(direction="maximize", sampler=tpe)
            study.add_trials([_frozen_trial(space, each, distributions) for each in observed])
            drawn = study.ask(distributions).params
        values = {
            key: part.rounded(drawn[key]) if isinstance(part, Range) else part.values[drawn[key]]
            for key, part in space.parts.items()
        }
        if all(each.values != values for each in observed):
            return values
    return None


def _distribution(part: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(part, Range):
        return CategoricalDistribution(range(len(part.values)))  # positions: a value may be a list
    kind = IntDistribution if part.is_integer else FloatDistribution
    return kind(part.low, part.high, log=part.log)


def _frozen_trial(space: SearchSpace, observation: Observation, distributions: dict[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    params = {
        key: observation.values[key] if isinstance(part, Range) else part.values.index(observation.values[key])
        for key, part in space.parts.items()
    }
    if observation.failed:
        state = TrialState.FAIL
    elif observation.value is None:
        state = TrialState.RUNNING
    else:
        state = TrialState.COMPLETE if observation.complete else TrialState.PRUNED
    intermediate = {observation.step: observation.value} if state is TrialState.PRUNED else {}
    return create_trial(
        state=state, params=params, distributions=distributions, intermediate_values=intermediate,
        value=observation.value if state is TrialState.COMPLETE else None,
    )  # fmt: skip
