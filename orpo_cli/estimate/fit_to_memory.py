"""Making a step fit: micro-batches and checkpointing by the memory there is, and what to change where that is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orpo_cli.estimate.memory import (
    EstimateInputs,
    Memory,
    PairLengths,
    PairSize,
    estimate_memory,
    uses_checkpointing,
    with_training_args,
)
from orpo_cli.plan.plan import Plan, Why
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import LoraSection, QuantizationSection

HEADROOM = 0.9  # of the memory there is; the rest is for what the estimate does not know of
MAX_TOKENS_PER_MICROBATCH = {
    "cpu": 2048,
    "cuda": 32768,
    "mps": 8192,
}  # tokens of a micro-batch beyond which nothing gets faster
MIN_MAX_LENGTH = 128  # tokens that max_length is not made smaller than
TOKEN_STEP = 256  # tokens by which a smaller micro-batch is chosen


@dataclass(frozen=True)
class Saving:
    """A setting that would take less memory: what to write, and the bytes in all with it."""

    setting: str
    total: float


def fit_to_memory(plan: Plan, loaded: LoadedRecipe, sizing: EstimateInputs) -> Plan:
    """``plan`` with ``engine.max_tokens_per_microbatch`` and ``gradient_checkpointing`` chosen where the recipe leaves them open."""
    recipe, training = loaded.recipe, loaded.recipe.training
    why = dict(plan.why)
    open_checkpointing = training.gradient_checkpointing is None and training.activation_checkpointing is None
    open_budget = recipe.engine.max_tokens_per_microbatch == "auto" and plan.engine.fast_path != "off"
    room = sizing.available_bytes * HEADROOM
    there = f"of {_gb(sizing.available_bytes)} there are"
    if open_checkpointing:
        without = with_training_args(plan, gradient_checkpointing=False)
        sizes = (
            [_max_budget(plan, sizing), _min_budget(plan, sizing)]
            if open_budget
            else [plan.engine.max_tokens_per_microbatch]
        )
        for size in sizes:  # mostly the first fits, and no other is looked at
            needed = estimate_memory(_with_budget(without, size), sizing).total
            if needed <= room:
                break
        wanted = needed > room
        reason = f"about {_gb(needed)} without it, {there}"
        plan = with_training_args(plan, gradient_checkpointing=wanted)
        why["training.gradient_checkpointing"] = Why(origin="decided", reason=reason)
    if open_budget:
        budget, reason = _budget(plan, sizing, room)
        plan = _with_budget(plan, budget)
        why["engine.max_tokens_per_microbatch"] = Why(origin="decided", reason=reason)
    return plan.model_copy(update={"why": why})


def memory_savings(plan: Plan, sizing: EstimateInputs) -> list[Saving]:
    """What could be changed, in the order of what it saves; only what saves something."""
    now = estimate_memory(plan, sizing).total
    tried = [Saving(setting, estimate_memory(*other).total) for setting, other in _cheaper_settings(plan, sizing)]
    return sorted((each for each in tried if each.total < 0.98 * now), key=lambda each: each.total)


def verdict(memory: Memory, sizing: EstimateInputs) -> str:
    """``fits``, ``is tight`` or ``does not fit``."""
    if memory.total > sizing.available_bytes:
        return "does not fit"
    return "fits" if memory.total <= HEADROOM * sizing.available_bytes else "is tight"


def _cheaper_settings(plan: Plan, sizing: EstimateInputs) -> Iterator[tuple[str, tuple[Plan, EstimateInputs]]]:
    """The settings that take less memory; plan and sizing with each alone."""
    training = plan.training
    if not uses_checkpointing(plan):
        yield "training.gradient_checkpointing: true", (with_training_args(plan, gradient_checkpointing=True), sizing)
    least = _min_budget(plan, sizing)
    batch, steps = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    if plan.engine.fast_path != "off" and plan.engine.max_tokens_per_microbatch > least:
        yield f"engine.max_tokens_per_microbatch: {least}", (_with_budget(plan, least), sizing)
    elif plan.engine.fast_path == "off" and batch > 1:
        one = with_training_args(plan, per_device_train_batch_size=1, gradient_accumulation_steps=batch * steps)
        yield f"training.per_device_train_batch_size: 1, gradient_accumulation_steps: {batch * steps}", (one, sizing)
    half = training["max_length"] // 2
    if half >= MIN_MAX_LENGTH:
        shorter = PairLengths(tuple(_truncate(pair, half) for pair in sizing.lengths.pairs), sizing.lengths.measured)
        yield (
            f"training.max_length: {half}",
            (with_training_args(plan, max_length=half), replace(sizing, lengths=shorter)),
        )
    if plan.lora is None:
        yield "lora: {r: 16}", (plan.model_copy(update={"lora": LoraSection()}), sizing)
        if plan.device == "cuda" and "8bit" not in training["optim"]:
            yield "training.optim: paged_adamw_8bit", (with_training_args(plan, optim="paged_adamw_8bit"), sizing)
    elif plan.quantization is None:
        section = QuantizationSection(load_in_4bit=True, bnb_4bit_compute_dtype=plan.model.dtype)
        yield "quantization: {load_in_4bit: true}", (plan.model_copy(update={"quantization": section}), sizing)


def _truncate(pair: PairSize, longest: int) -> PairSize:
    prompt = min(pair.prompt, longest // 2)
    return PairSize(prompt, *(min(answer, longest - prompt) for answer in (pair.chosen, pair.rejected)))


def _min_budget(plan: Plan, sizing: EstimateInputs) -> int:
    """Tokens of the longest pair, below which a micro-batch does not get smaller."""
    longest = sizing.lengths.longest.packed
    return max(longest, min(-(-longest // TOKEN_STEP) * TOKEN_STEP, MAX_TOKENS_PER_MICROBATCH[plan.device]))


def _max_budget(plan: Plan, sizing: EstimateInputs) -> int:
    """Tokens beyond which a micro-batch gets nothing faster, but at least the longest pair."""
    return max(MAX_TOKENS_PER_MICROBATCH[plan.device], _min_budget(plan, sizing))


def _budget(plan: Plan, sizing: EstimateInputs, room: float) -> tuple[int, str]:
    """The largest micro-batch that fits, and why; between two sizes memory grows in proportion to the tokens."""
    largest, least = _max_budget(plan, sizing), _min_budget(plan, sizing)
    top = estimate_memory(_with_budget(plan, largest), sizing).total
    if top <= room:
        reason = f"about {_gb(top)} of {_gb(sizing.available_bytes)} there are; more tokens at once would not be faster on {plan.device}"
        if largest > MAX_TOKENS_PER_MICROBATCH[plan.device]:
            reason = f"the longest pair that may come; about {_gb(top)} of {_gb(sizing.available_bytes)} there are"
        return largest, reason
    bottom = estimate_memory(_with_budget(plan, least), sizing).total
    if bottom > room or least >= largest or top <= bottom:
        return least, f"the longest pair alone takes about {_gb(bottom)} of {_gb(sizing.available_bytes)} there are"
    tokens = least + (largest - least) * (room - bottom) / (top - bottom)
    budget = max(least, int(tokens) // TOKEN_STEP * TOKEN_STEP)
    return budget, f"what fits into {_gb(sizing.available_bytes)}; {largest} would take about {_gb(top)}"


def _with_budget(plan: Plan, tokens: int) -> Plan:
    return with_training_args(plan, budget=tokens)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
