"""Strategies of a plan: the estimate of the planned one, and a comparison of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orpo_cli.estimate.memory import HEADROOM, EstimateInputs, Memory, estimate_memory, with_training_args
from orpo_cli.estimate.strategies import STRATEGIES, StrategyEstimate, estimate_strategy, obstacle, strategy_of
from orpo_cli.estimate.token_budget import min_budget
from orpo_cli.planning.plan import CHECKPOINTING, TOKEN_BUDGET, Plan

USUAL_DEVICES = (16, 24, 40, 48, 80, 96, 141, 180)  # GB of common GPUs


@dataclass(frozen=True)
class StrategyRow:
    """A strategy in a comparison: bytes of a device and of the host with the smallest micro-batch, and bytes that each process
    sends in a planned step. ``smallest_device``: GB of the smallest usual device that fits; None if none does.
    """

    strategy: str
    device_bytes: int
    host_bytes: int
    sent_bytes: int
    fits: bool
    smallest_device: int | None
    setting: str | None


def estimate_plan(plan: Plan, inputs: EstimateInputs) -> Memory | StrategyEstimate:
    """Peak memory of a device in a step, with the planned strategy."""
    if plan.launch.strategy == "single":
        return estimate_memory(plan, inputs)
    return estimate_strategy(plan, inputs, strategy_of(plan.launch))


def compare_strategies(plan: Plan, inputs: EstimateInputs) -> Iterator[StrategyRow]:
    """A row for each strategy that can train ``plan``."""
    least = _least_memory(plan, inputs)
    for strategy in STRATEGIES:
        if obstacle(plan, strategy) is not None:
            continue
        planned, smallest = (estimate_strategy(each, inputs, strategy) for each in (plan, least))
        yield StrategyRow(
            strategy.name,
            device_bytes=round(smallest.total),
            host_bytes=round(smallest.host),
            sent_bytes=round(planned.sent),
            fits=smallest.total <= HEADROOM * inputs.available_bytes,
            smallest_device=next((gb for gb in USUAL_DEVICES if smallest.total <= HEADROOM * gb * 1e9), None),
            setting=planned.setting,
        )


def _least_memory(plan: Plan, inputs: EstimateInputs) -> Plan:
    """``plan`` with checkpointing and the smallest micro-batch, where the recipe does not say otherwise."""
    changes: dict[str, Any] = {}
    decided = {
        path for path in (CHECKPOINTING, TOKEN_BUDGET) if path in plan.why and plan.why[path].origin == "decided"
    }
    if CHECKPOINTING in decided:
        changes["gradient_checkpointing"] = True
    if TOKEN_BUDGET in decided and plan.engine.fast_path != "off":
        changes["budget"] = min_budget(plan, inputs)
    return with_training_args(plan, **changes)
