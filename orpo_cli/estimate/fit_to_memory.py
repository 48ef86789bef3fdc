"""Fit to memory: strategy, checkpointing, offloading and micro-batch size by the memory estimate, and settings that save memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from orpo_cli.estimate.activation_offload import OFFLOAD, can_offload, offloaded_bytes
from orpo_cli.estimate.memory import HEADROOM, EstimateInputs, Memory, uses_checkpointing, with_training_args
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.estimate.strategies import (
    STRATEGIES,
    Strategy,
    StrategyEstimate,
    needed_setting,
    obstacle,
    strategy_of,
)
from orpo_cli.estimate.strategy_choice import estimate_plan
from orpo_cli.estimate.token_budget import MAX_TOKENS_PER_MICROBATCH, TOKEN_STEP, max_budget, min_budget
from orpo_cli.planning.plan import (
    CHECKPOINTING,
    CHECKPOINTING_OPTIONS,
    DEEPSPEED_CONFIG,
    STRATEGY,
    TOKEN_BUDGET,
    Plan,
    PlanDraft,
    QuantizationPlan,
    Why,
)
from orpo_cli.planning.resolve import complete_by_default
from orpo_cli.recipe.schema import LoraSection

MIN_MAX_LENGTH = 128  # tokens; no shorter max_length is proposed


@dataclass(frozen=True)
class Saving:
    """A setting that takes less memory: what to write in the recipe, and the total bytes with it."""

    setting: str
    total: float


def fit_to_memory(draft: PlanDraft, inputs: EstimateInputs | None) -> Plan:
    """Decide ``strategy``, ``gradient_checkpointing``, its offloading and ``max_tokens_per_microbatch`` where the recipe does not.

    Smaller micro-batches come before checkpointing, and this before offloading, since they cost less time. ``inputs`` is None where the model is not
    known; the usual values are taken then.
    """
    if inputs is None:
        return complete_by_default(draft)
    return _fit_strategy(draft, inputs) if STRATEGY in draft.undecided() else _fit_step(draft, inputs)


def _fit_strategy(draft: PlanDraft, inputs: EstimateInputs) -> Plan:
    """The first strategy with which a step fits, the fastest first; the one with the least memory where none fits."""
    available = inputs.available_bytes
    tried: dict[str, tuple[Plan, Strategy, float]] = {}
    deepspeed = importlib.util.find_spec("deepspeed") is not None
    for strategy in STRATEGIES:
        if strategy.launch == "deepspeed" and not deepspeed:
            continue
        launch = draft.launch.model_copy(update={"strategy": strategy.launch, "deepspeed_config": strategy.config})
        plan = _fit_step(draft.model_copy(update={"launch": launch}), inputs)
        if strategy_of(plan.launch) != strategy or obstacle(plan, strategy) or needed_setting(plan, strategy):
            continue  # it needs another setting of the recipe
        tried[strategy.name] = plan, strategy, estimate_plan(plan, inputs).total
        if tried[strategy.name][2] <= available * HEADROOM:
            break
    plan, strategy, total = min(tried.values(), key=lambda each: each[2])
    sizes = ", ".join(f"{_gb(size)} with {name}" for name, (*_, size) in tried.items())
    fits = (
        "" if total <= available * HEADROOM else "; none fits" + ("" if deepspeed else ", without deepspeed installed")
    )
    why = {STRATEGY: f"about {sizes} on each device, {_gb(available)} available{fits}"}
    if strategy.config is not None:
        why[DEEPSPEED_CONFIG] = strategy.name
    decided = {path: Why(origin="decided", reason=reason) for path, reason in why.items()}
    return plan.model_copy(update={"why": {**plan.why, **decided}})


def _fit_step(draft: PlanDraft, inputs: EstimateInputs) -> Plan:
    """``fit_to_memory`` for a decided strategy."""
    plan = _fit_on_device(draft, inputs)
    needed = estimate_plan(plan, inputs).total
    if needed <= inputs.available_bytes * HEADROOM or not can_offload(plan):
        return plan
    moved = offloaded_bytes(plan, inputs)
    if (
        inputs.machine.available_bytes is not None and moved > HEADROOM * inputs.machine.ram_bytes
    ):  # not an assumed machine
        return plan
    reason = (
        f"about {_gb(needed)} with checkpointing alone, {_gb(inputs.available_bytes)} available; layer inputs wait in main memory "
        f"for backward, up to {_gb(moved)}, and the copies take time"
    )
    why = {**draft.why, CHECKPOINTING_OPTIONS: Why(origin="decided", reason=reason)}
    training = {**draft.training, **OFFLOAD}
    offloaded = _fit_on_device(draft.model_copy(update={"training": training, "why": why}), inputs)
    return offloaded if estimate_plan(offloaded, inputs).total < needed else plan


def _fit_on_device(draft: PlanDraft, inputs: EstimateInputs) -> Plan:
    """Checkpointing and micro-batches, without a decision on offloading."""
    available, undecided = inputs.available_bytes, draft.undecided()
    limit = available * HEADROOM
    checkpointing = (False, "")
    if CHECKPOINTING in undecided:
        for tokens in (max_budget(draft, inputs), min_budget(draft, inputs)):  # mostly the first one fits
            without = draft.complete(gradient_checkpointing=checkpointing, max_tokens_per_microbatch=(tokens, ""))
            needed = estimate_plan(without, inputs).total
            if needed <= limit or TOKEN_BUDGET not in undecided:
                break
        checkpointing = needed > limit, f"about {_gb(needed)} without it, {_gb(available)} available"

    def with_budget(tokens: int, reason: str = "") -> Plan:
        return draft.complete(gradient_checkpointing=checkpointing, max_tokens_per_microbatch=(tokens, reason))

    if TOKEN_BUDGET not in undecided:
        return with_budget(0)
    return with_budget(*_budget(with_budget, draft, inputs, limit))


def memory_savings(plan: Plan, inputs: EstimateInputs) -> list[Saving]:
    """Settings that save memory, the largest saving first."""
    now = estimate_plan(plan, inputs).total
    tried = [Saving(setting, estimate_plan(*other).total) for setting, other in _cheaper_settings(plan, inputs)]
    return sorted((each for each in tried if each.total < 0.98 * now), key=lambda each: each.total)


def verdict(memory: Memory | StrategyEstimate, inputs: EstimateInputs) -> str:
    """``fits``, ``is tight`` or ``does not fit``."""
    if memory.total > inputs.available_bytes:
        return "does not fit"
    return "fits" if memory.total <= HEADROOM * inputs.available_bytes else "is tight"


def _cheaper_settings(plan: Plan, inputs: EstimateInputs) -> Iterator[tuple[str, tuple[Plan, EstimateInputs]]]:
    """Settings that take less memory, each with the plan and the inputs that it alone changes."""
    training = plan.training
    if not uses_checkpointing(plan):
        yield "training.gradient_checkpointing: true", (with_training_args(plan, gradient_checkpointing=True), inputs)
    elif can_offload(plan):
        yield f"{CHECKPOINTING_OPTIONS}: {{offload: true}}", (with_training_args(plan, **OFFLOAD), inputs)
    least = min_budget(plan, inputs)
    batch, steps = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    if plan.engine.fast_path != "off" and plan.engine.max_tokens_per_microbatch > least:
        yield f"engine.max_tokens_per_microbatch: {least}", (with_training_args(plan, budget=least), inputs)
    elif plan.engine.fast_path == "off" and batch > 1:
        one = with_training_args(plan, per_device_train_batch_size=1, gradient_accumulation_steps=batch * steps)
        yield f"training.per_device_train_batch_size: 1, gradient_accumulation_steps: {batch * steps}", (one, inputs)
    half = training["max_length"] // 2
    if half >= MIN_MAX_LENGTH:
        lengths = replace(inputs.lengths, pairs=tuple(_truncate(pair, half) for pair in inputs.lengths.pairs))
        shorter = with_training_args(plan, max_length=half), replace(inputs, lengths=lengths)
        yield f"training.max_length: {half}", shorter
    if plan.lora is None:
        yield "lora: {r: 16}", (plan.model_copy(update={"lora": LoraSection()}), inputs)
        if plan.device == "cuda" and "8bit" not in training["optim"]:
            yield "training.optim: paged_adamw_8bit", (with_training_args(plan, optim="paged_adamw_8bit"), inputs)
    elif plan.quantization is None:
        section = QuantizationPlan(load_in_4bit=True, bnb_4bit_compute_dtype=plan.model.dtype)
        yield "quantization: {load_in_4bit: true}", (plan.model_copy(update={"quantization": section}), inputs)


def _truncate(pair: PairSize, longest: int) -> PairSize:
    prompt = min(pair.prompt, longest // 2)
    return PairSize(prompt, *(min(answer, longest - prompt) for answer in (pair.chosen, pair.rejected)))


def _budget(
    with_budget: Callable[[int], Plan], draft: PlanDraft, inputs: EstimateInputs, limit: float
) -> tuple[int, str]:
    """The largest micro-batch that fits, and why; between two sizes memory grows linearly with the tokens."""
    largest, least = max_budget(draft, inputs), min_budget(draft, inputs)
    available = _gb(inputs.available_bytes)
    top = estimate_plan(with_budget(largest), inputs).total
    if top <= limit:
        if largest > MAX_TOKENS_PER_MICROBATCH[draft.device]:
            return largest, f"the longest possible pair; about {_gb(top)}, {available} available"
        return largest, f"about {_gb(top)}, {available} available; more tokens would not be faster on {draft.device}"
    bottom = estimate_plan(with_budget(least), inputs).total
    if bottom > limit or least >= largest or top <= bottom:
        return least, f"the longest pair alone takes about {_gb(bottom)}, {available} available"
    tokens = least + (largest - least) * (limit - bottom) / (top - bottom)
    budget = max(least, int(tokens) // TOKEN_STEP * TOKEN_STEP)
    return budget, f"what fits into {available}; {largest} would take about {_gb(top)}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
