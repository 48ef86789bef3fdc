"""Bounds of a micro-batch's tokens, within which ``engine.max_tokens_per_microbatch`` is chosen."""

from __future__ import annotations

from orpo_cli.estimate.memory import EstimateInputs
from orpo_cli.planning.plan import PlanDraft

MAX_TOKENS_PER_MICROBATCH = {"cpu": 2048, "cuda": 32768, "mps": 8192}  # more tokens make no step faster
TOKEN_STEP = 256  # tokens by which a smaller micro-batch is chosen


def min_budget(plan: PlanDraft, inputs: EstimateInputs) -> int:
    """Tokens of the longest pair: a micro-batch has at least one pair."""
    longest = inputs.lengths.longest.packed
    return max(longest, min(-(-longest // TOKEN_STEP) * TOKEN_STEP, MAX_TOKENS_PER_MICROBATCH[plan.device]))


def max_budget(plan: PlanDraft, inputs: EstimateInputs) -> int:
    """Tokens beyond which no step gets faster, but at least the longest pair."""
    return max(MAX_TOKENS_PER_MICROBATCH[plan.device], min_budget(plan, inputs))
