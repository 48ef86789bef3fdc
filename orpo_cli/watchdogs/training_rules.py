"""Watchdog rules about the optimizer and the machine: loss spikes, clipped gradients, lost throughput.

A rule returns a message where it finds something, False where it finds nothing, and None where it cannot tell.
``recipe/problems/CODE.md`` has the reason and the source of each threshold.
"""

from __future__ import annotations

from statistics import fmean, median

from orpo_cli.watchdogs.metric_history import (
    KEPT_RECORDS,
    MIN_RECORDS,
    MetricHistory,
    Record,
    covered_steps,
    last_lines,
    values,
)

Verdict = str | bool | None

SPIKE_FACTOR = 2.0
SPIKE_STEPS, SPIKE_RECORDS = 5, 2
SPIKE_WINDOW = 100  # lines before the spike
CLIP_FACTOR = 10.0
CLIPPED_PART = 0.95  # of the lines
CLIP_STEPS = 50
CLIP_RUN_PART = 0.1
WARM_UP_RECORDS = 2
SLOW_FACTOR, SLOW_SECONDS = 0.5, 30.0
LONGER_STEPS = 1.5  # a step of fewer tokens may process fewer a second, and is not slower


def loss_spike(history: MetricHistory) -> Verdict:
    """The loss stays above twice its recent mean."""
    lines = [each for each in history.recent if "loss" in each]
    spike: list[Record] = []
    while lines and (covered_steps(spike) < SPIKE_STEPS or len(spike) < SPIKE_RECORDS):
        spike.append(lines.pop())
    before = values(lines[-SPIKE_WINDOW:], "loss")
    if len(before) < MIN_RECORDS:
        return None
    usual = fmean(before)
    if min(values(spike, "loss")) < SPIKE_FACTOR * usual:
        return False
    first = spike[-1]["step"] - spike[-1]["steps"] + 1
    return (
        f"loss has been above {min(values(spike, 'loss')):.3g} since step {first:.0f}, and was {usual:.3g} before (mean of "
        f"{len(before)} lines). A loss that stays high seldom returns: the weights are damaged. Start again with a lower "
        f"training.learning_rate{present(history.setup.learning_rate)} or a longer warm-up (training.warmup_steps)."
    )


def gradient_clipped(history: MetricHistory) -> Verdict:
    """The gradient is much longer than ``max_grad_norm`` for long."""
    limit = history.setup.max_grad_norm
    if limit <= 0:
        return None
    steps = max(CLIP_STEPS, CLIP_RUN_PART * history.total_steps())
    lines = last_lines(history.recent, steps)
    norms = values(lines, "grad_norm")
    if len(norms) < MIN_RECORDS or (covered_steps(lines) < steps and len(lines) < KEPT_RECORDS):
        return None
    clipped, usual = sum(norm > limit for norm in norms) / len(norms), median(norms)
    if clipped < CLIPPED_PART or usual < CLIP_FACTOR * limit:
        return False
    return (
        f"grad_norm was above training.max_grad_norm ({limit:g}) in {clipped:.0%} of the last {covered_steps(lines):.0f} steps, with "
        f"a median of {usual:.3g}. Clipping gives all steps the same length, so that hard batches count no more than easy ones. Lower "
        f"training.learning_rate{present(history.setup.learning_rate)}, take more pairs in a step, or raise training.max_grad_norm."
    )


def throughput_halved(history: MetricHistory) -> Verdict:
    """Tokens per second are half of those at the start of this attempt."""
    start = history.attempt[WARM_UP_RECORDS:]
    end = list(history.recent)[-MIN_RECORDS:]
    before, last = values(start, "tokens_per_second"), values(end, "tokens_per_second")
    if history.attempt_count < WARM_UP_RECORDS + 2 * MIN_RECORDS or min(len(before), len(last)) < MIN_RECORDS:
        return None
    usual, now = median(before), median(last)
    if now > SLOW_FACTOR * usual or median(_seconds(end)) < LONGER_STEPS * median(_seconds(start)):
        return False
    if sum(_seconds(end, of_line=True)) < SLOW_SECONDS:
        return None
    step = history.out_of_memory_step
    reason = "" if step is None else f"; the memory ran out in step {step:.0f}, after which steps are slower"
    return (
        f"tokens_per_second is {now:,.0f}, and was {usual:,.0f} at the start of this attempt{reason}. The rest of the run takes twice as "
        "long. Look for other programs on this machine, a hot GPU, swapping or a slow disk."
    )


def _seconds(lines: list[Record], *, of_line: bool = False) -> list[float]:
    """Time of a step in each line, or of all its steps; 0 where the tokens of lines are not recorded."""
    return [
        each["line_tokens"] / max(each.get("tokens_per_second", 0), 1e-9) / (1 if of_line else each["steps"])
        for each in lines
    ]


def present(value: float | None) -> str:
    """The present value of a setting, for a message that says to change it."""
    return "" if value is None else f" (now {value:g})"
