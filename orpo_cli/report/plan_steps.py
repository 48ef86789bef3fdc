"""Steps of a plan in words: how many, evaluations and checkpoints between them, and the warmup of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.estimate.batching import count_steps, steps_per_epoch
from orpo_cli.planning.plan import Plan

FEW_STEPS = 30  # optimizer steps; fewer change a model little at usual learning rates
# Schedules of transformers whose warmup begins with rate 0, whatever their other arguments are.
WARMUP_FROM_ZERO = {
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup", "inverse_sqrt", "cosine_with_min_lr",
}  # fmt: skip


def planned_steps(plan: Plan, pairs: int | None) -> int | None:
    """Steps of the run; None where their number depends on pairs that nobody has counted."""
    if plan.total_pairs() is None and pairs is None:
        return None
    return count_steps(plan, pairs or 0)


def describe_schedule(plan: Plan, steps: int | None, pairs: int | None, done: int, *, measured: bool) -> str:
    """``200 of 8 pairs, 2 epochs; 60 done, 140 left; evaluation each epoch, no checkpoint``. ``done``: steps before a resume."""
    training, each = plan.training, f"{plan.launch.pairs_per_step} pairs"
    if plan.launch.num_processes > 1:
        each += f" on {plan.launch.num_processes} processes ({plan.launch.strategy})"
    in_epochs = _epochs_text(number_text(training.get("num_train_epochs", 1)))
    if steps is None:
        return f"{in_epochs}, {each} a step; `orpo data` counts the pairs and the steps"
    text = f"{'' if measured or plan.total_pairs() else 'about '}{steps:,} of {each}"
    if plan.total_pairs() is None:
        text += f", {in_epochs}"
    elif pairs and (in_epoch := steps_per_epoch(plan, pairs)):
        epochs = steps / in_epoch
        text += f", {_epochs_text(f'{epochs:,.0f}' if epochs >= 100 else f'{epochs:.2g}')}"
        if steps < in_epoch:
            taken = f"{steps * plan.launch.pairs_per_step:,} of {'the' if measured else 'about'} {pairs:,} pairs"
            text += f" ({taken})"
    if rest := _rest_of_epoch(plan, steps, pairs if measured else None):
        text += f"; the last step of an epoch has {rest}"
    if done:
        text += f"; {done:,} done, {steps_left(steps, done):,} left"
    return f"{text}; {_timing(training, 'eval', 'evaluation', steps)}, {_timing(training, 'save', 'checkpoint', steps)}"


def _rest_of_epoch(plan: Plan, steps: int, pairs: int | None) -> int | None:
    """Pairs of the last step of an epoch, if it has fewer than the others and training reaches it; known for one process."""
    if not pairs or plan.launch.num_processes > 1 or plan.training.get("dataloader_drop_last"):
        return None
    in_epoch = steps_per_epoch(plan, pairs)
    return pairs % plan.launch.pairs_per_step or None if in_epoch and steps >= in_epoch else None


def _epochs_text(number: str) -> str:
    return f"{number} epoch{'' if number == '1' else 's'}"


def steps_left(steps: int, done: int) -> int:
    """Steps that a resumed run has to train; 0 where it only restores its result."""
    return max(0, steps - done)


def describe_few_steps(plan: Plan, steps: int | None, pairs: int | None) -> Iterator[str]:
    """What gives more optimizer steps, where there are few and the recipe has not set their number; why there is none."""
    training = plan.training
    if pairs and not steps_per_epoch(plan, pairs):
        yield (
            "the pairs do not fill a batch, and training.dataloader_drop_last drops it: `orpo train` will refuse them. Set it to false, or "
            "lower training.per_device_train_batch_size"
        )
        return
    if steps is None or steps >= FEW_STEPS or plan.total_pairs() is not None:
        return
    more = [f"more epochs (training.num_train_epochs, now {number_text(training['num_train_epochs'])})"]
    for name in ("gradient_accumulation_steps", "per_device_train_batch_size"):
        if (value := training.get(name, 1)) > 1:
            more.append(f"fewer pairs a step (training.{name}, now {value})")
            break
    count = "1 optimizer step is little" if steps == 1 else f"{steps} optimizer steps are few"
    text = f"{count} for a fine-tune; {', '.join(more)} or more pairs give more"
    yield f"{text}; step 1 has rate 0 and trains nothing" if _warmup_steps(training, steps) else text


def few_steps_warnings(plan: Plan, steps: int | None, pairs: int | None) -> list[Problem]:
    """``describe_few_steps`` as warnings."""
    found = describe_few_steps(plan, steps, pairs)
    return [Problem("few-steps", f"{text}.", "training", severity="warning") for text in found]


def _warmup_steps(training: dict[str, Any], steps: int | None) -> int | None:
    """Steps of a warmup that begins with rate 0; 0 without one, None where their number is not known."""
    warmup = training.get("warmup_steps") or 0
    if training["lr_scheduler_type"] not in WARMUP_FROM_ZERO or not warmup:
        return 0
    if warmup >= 1:
        return int(warmup)
    return None if steps is None else math.ceil(steps * warmup)


def describe_warmup(training: dict[str, Any], steps: int | None) -> str:
    """``warmup 0.1 (4 steps, the first at rate 0)``."""
    if not training.get("warmup_steps"):
        return "no warmup"
    text = f"warmup {number_text(training['warmup_steps'])}"
    count = _warmup_steps(training, steps)
    if count == 0:
        return text
    if count is None:
        return f"{text} (step 1 at rate 0)"
    return f"{text} (1 step, at rate 0)" if count == 1 else f"{text} ({count:,} steps, the first at rate 0)"


def _timing(training: dict[str, Any], kind: str, name: str, steps: int) -> str:
    strategy = training.get(f"{kind}_strategy", "no")
    if strategy == "no":
        return f"no {name}"
    every = training.get(f"{kind}_steps", 1)
    if strategy == "steps" and every > steps:
        return f"{name} only after the last step ({kind}_steps: {every:g})"
    if strategy == "steps":
        return f"{name} every {every:.0%} of the steps" if 0 < every < 1 else f"{name} every {every:g} steps"
    return f"{name} {'each epoch' if strategy == 'epoch' else f'by {strategy}'}"


def number_text(value: Any) -> str:
    """A number of the plan, without trailing zeros."""
    return f"{value:g}" if isinstance(value, float) else str(value)
