"""Making a step fit: micro-batches and checkpointing by the memory there is, and what to change where that is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orpo_cli.estimate.memory import EstimateInputs, Lengths, Memory, PairSize, changed, checkpoints, memory
from orpo_cli.plan.plan import Plan, Why
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.schema import LoraSection, QuantizationSection

HEADROOM = 0.9  # of the memory there is; the rest is for what the estimate does not know of
MOST = {"cpu": 2048, "cuda": 32768, "mps": 8192}  # tokens of a micro-batch beyond which nothing gets faster
SHORTEST = 128  # tokens that max_length is not made smaller than
STEP = 256  # tokens by which a smaller micro-batch is chosen


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
    room = sizing.room * HEADROOM
    there = f"of {_gb(sizing.room)} there are"
    if open_checkpointing:
        without = changed(plan, gradient_checkpointing=False)
        sizes = [_most(plan, sizing), _least(plan, sizing)] if open_budget else [plan.engine.max_tokens_per_microbatch]
        for size in sizes:  # mostly the first fits, and no other is looked at
            needed = memory(_with_budget(without, size), sizing).total
            if needed <= room:
                break
        wanted = needed > room
        reason = f"about {_gb(needed)} without it, {there}"
        plan = changed(plan, gradient_checkpointing=wanted)
        why["training.gradient_checkpointing"] = Why(origin="decided", reason=reason)
    if open_budget:
        budget, reason = _budget(plan, sizing, room)
        plan = _with_budget(plan, budget)
        why["engine.max_tokens_per_microbatch"] = Why(origin="decided", reason=reason)
    return plan.model_copy(update={"why": why})


def savings(plan: Plan, sizing: EstimateInputs) -> list[Saving]:
    """What could be changed, in the order of what it saves; only what saves something."""
    now = memory(plan, sizing).total
    tried = [Saving(setting, memory(*other).total) for setting, other in _smaller(plan, sizing)]
    return sorted((each for each in tried if each.total < 0.98 * now), key=lambda each: each.total)


def verdict(held: Memory, sizing: EstimateInputs) -> str:
    """``fits``, ``is tight`` or ``does not fit``."""
    if held.total > sizing.room:
        return "does not fit"
    return "fits" if held.total <= HEADROOM * sizing.room else "is tight"


def _smaller(plan: Plan, sizing: EstimateInputs) -> Iterator[tuple[str, tuple[Plan, EstimateInputs]]]:
    """The settings that take less memory; plan and sizing with each alone."""
    training = plan.training
    if not checkpoints(plan):
        yield "training.gradient_checkpointing: true", (changed(plan, gradient_checkpointing=True), sizing)
    least = _least(plan, sizing)
    batch, steps = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    if plan.engine.fast_path != "off" and plan.engine.max_tokens_per_microbatch > least:
        yield f"engine.max_tokens_per_microbatch: {least}", (_with_budget(plan, least), sizing)
    elif plan.engine.fast_path == "off" and batch > 1:
        one = changed(plan, per_device_train_batch_size=1, gradient_accumulation_steps=batch * steps)
        yield f"training.per_device_train_batch_size: 1, gradient_accumulation_steps: {batch * steps}", (one, sizing)
    half = training["max_length"] // 2
    if half >= SHORTEST:
        shorter = Lengths(tuple(_cut(pair, half) for pair in sizing.lengths.pairs), sizing.lengths.known)
        yield f"training.max_length: {half}", (changed(plan, max_length=half), replace(sizing, lengths=shorter))
    if plan.lora is None:
        yield "lora: {r: 16}", (plan.model_copy(update={"lora": LoraSection()}), sizing)
        if plan.device == "cuda" and "8bit" not in training["optim"]:
            yield "training.optim: paged_adamw_8bit", (changed(plan, optim="paged_adamw_8bit"), sizing)
    elif plan.quantization is None:
        section = QuantizationSection(load_in_4bit=True, bnb_4bit_compute_dtype=plan.model.dtype)
        yield "quantization: {load_in_4bit: true}", (plan.model_copy(update={"quantization": section}), sizing)


def _cut(pair: PairSize, longest: int) -> PairSize:
    prompt = min(pair.prompt, longest // 2)
    return PairSize(prompt, *(min(answer, longest - prompt) for answer in (pair.chosen, pair.rejected)))


def _least(plan: Plan, sizing: EstimateInputs) -> int:
    """Tokens of the longest pair, below which a micro-batch does not get smaller."""
    longest = sizing.lengths.longest.packed
    return max(longest, min(-(-longest // STEP) * STEP, MOST[plan.device]))


def _most(plan: Plan, sizing: EstimateInputs) -> int:
    """Tokens beyond which a micro-batch gets nothing faster, but at least the longest pair."""
    return max(MOST[plan.device], _least(plan, sizing))


def _budget(plan: Plan, sizing: EstimateInputs, room: float) -> tuple[int, str]:
    """The largest micro-batch that fits, and why; between two sizes memory grows in proportion to the tokens."""
    largest, least = _most(plan, sizing), _least(plan, sizing)
    top = memory(_with_budget(plan, largest), sizing).total
    if top <= room:
        reason = f"about {_gb(top)} of {_gb(sizing.room)} there are; more tokens at once would not be faster on {plan.device}"
        if largest > MOST[plan.device]:
            reason = f"the longest pair that may come; about {_gb(top)} of {_gb(sizing.room)} there are"
        return largest, reason
    bottom = memory(_with_budget(plan, least), sizing).total
    if bottom > room or least >= largest or top <= bottom:
        return least, f"the longest pair alone takes about {_gb(bottom)} of {_gb(sizing.room)} there are"
    tokens = least + (largest - least) * (room - bottom) / (top - bottom)
    budget = max(least, int(tokens) // STEP * STEP)
    return budget, f"what fits into {_gb(sizing.room)}; {largest} would take about {_gb(top)}"


def _with_budget(plan: Plan, tokens: int) -> Plan:
    return changed(plan, budget=tokens)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
