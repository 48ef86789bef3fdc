"""Short view of a plan, for one screen: model, method, data, steps, memory, time, and the decisions that matter most."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from orpo_cli.control_characters import one_line
from orpo_cli.estimate.batching import evaluation_steps
from orpo_cli.estimate.memory import EstimateInputs
from orpo_cli.estimate.parameter_counts import count_trained_by_adapter
from orpo_cli.memory_dataset import source_label
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import CHECKPOINTING, STRATEGY, TOKEN_BUDGET, Plan
from orpo_cli.report.estimate_view import LABELS, MAX_SAVINGS_SHOWN
from orpo_cli.report.plan_steps import (
    describe_few_steps,
    describe_schedule,
    describe_warmup,
    number_text,
    planned_steps,
    steps_left,
)
from orpo_cli.report.plan_view import plan_lines
from orpo_cli.report.remaining_time import duration_text
from orpo_cli.secret_values import mask_secrets

LABEL_WIDTH = 10
MAX_LINES = 28  # at MAX_WIDTH; longer reasons make fewer decisions
MAX_WIDTH = 100
MEMORY_BAR = 28
MAX_PARTS_SHOWN = 4  # of the memory
DECISIONS = (  # the most important first
    "training.learning_rate", "training.beta", "training.max_length", "training.num_train_epochs", "engine.fast_path", CHECKPOINTING,
    TOKEN_BUDGET, "model.dtype", STRATEGY, "training.optim", "model.attn_implementation", "training.gradient_accumulation_steps",
    "training.load_best_model_at_end", "dataset.max_prompt_length", "training.lr_scheduler_type", "training.warmup_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Screen:
    """Where the view is shown. ``width``: None for lines that are not wrapped, in a pipe. ``every_value``: where all values are.

    ``has_data_notes``: whether it shows what was noted of the pairs; a run prints it with its data report.
    """

    width: int | None
    every_value: str
    has_data_notes: bool = True
    has_bar: bool = False
    has_unicode: bool = True


def plan_summary(
    plan: Plan,
    inputs: EstimateInputs | None,
    estimate: dict[str, Any] | None,
    pairs: int | None,
    screen: Screen,
    *,
    done: int = 0,
) -> list[str]:
    """The lines of the view. ``pairs``: about how many pairs are trained on, where they were not measured.

    ``done``: the steps that a resumed run has behind it.
    """
    values = mask_secrets(plan.values(), plan.secrets)
    method = "LoRA" if plan.lora is not None else "all weights"
    model = values["model"]["model_name_or_path"]
    title = one_line(f"{plan.name}: ORPO of {Path(model).name}, {method}, on {plan.device}")
    lines = [*wrap_with_indent(title, screen.width, ""), ""]
    for label, texts in _entries(plan, values, inputs, estimate, pairs, screen, done):
        first = label.ljust(LABEL_WIDTH)
        for text in texts:
            lines += wrap_with_indent(one_line(text), screen.width, first)
            first = " " * LABEL_WIDTH
    decisions = list(_decisions(plan, screen.width, MAX_LINES - len(lines) - 4))
    return [
        *lines,
        "",
        *(["decided for this model and machine", *decisions, ""] if decisions else []),
        screen.every_value,
    ]


def _entries(
    plan: Plan,
    values: dict[str, Any],
    inputs: EstimateInputs | None,
    estimate: dict[str, Any] | None,
    pairs: int | None,
    screen: Screen,
    done: int,
) -> Iterator[tuple[str, list[str]]]:
    """Label and lines of each entry."""
    facts = None if inputs is None else inputs.facts
    measured = inputs is not None and inputs.lengths.measured
    count = len(inputs.lengths.pairs) if inputs is not None and measured else pairs
    steps = planned_steps(plan, count)
    yield "model", [short_path(values["model"]["model_name_or_path"]), ", ".join(_model(plan, facts))]
    yield "method", [_method(plan, facts)]
    notes = inputs.lengths.notes if inputs is not None and screen.has_data_notes else ()
    held_out = inputs.lengths.held_out if inputs is not None else None
    yield "data", [_sources(values["dataset"], held_out), _lengths(plan, inputs if measured else None, count), *notes]
    schedule = describe_schedule(plan, steps, count, done, measured=measured)
    yield "steps", [schedule, *([] if done else describe_few_steps(plan, steps, count))]
    training = plan.training
    rate = f"{number_text(training['learning_rate'])}, {training['lr_scheduler_type']}"
    yield "rate", [f"{rate}, {describe_warmup(training, steps)}, {training['optim']}"]
    if estimate is not None:
        yield "memory", _memory(estimate, screen)
        yield "time", [_time(plan, estimate, steps, count, done)]
    elif inputs is None:
        name = short_path(values["model"]["model_name_or_path"])
        yield (
            "memory",
            [
                f"not known, and the time neither: the configuration of {name} is not on this machine. A folder with its config.json is enough: --set model.model_name_or_path=DIR"
            ],
        )
    yield "run", [short_path(values["output_dir"])]


def _model(plan: Plan, facts: ModelFacts | None) -> Iterator[str]:
    if facts is not None and facts.parameters:
        yield f"{_count(facts.parameters)} parameters"
    if plan.quantization is not None and (plan.quantization.load_in_4bit or plan.quantization.load_in_8bit):
        yield f"loaded in {4 if plan.quantization.load_in_4bit else 8} bits"
    yield plan.model.dtype
    yield f"attention {plan.model.attn_implementation}"


def _method(plan: Plan, facts: ModelFacts | None) -> str:
    weight = plan.training.get("nll_weight", 1.0)
    nll = f"NLL of {nll_tokens(plan.training.get('loss_on_prompt', True))}" if weight else "no NLL"
    beta = f"ORPO with beta {number_text(plan.training['beta'])}, {'' if weight in (0, 1) else f'{weight:g} × '}{nll}"
    if plan.lora is None:
        return f"{beta}, all weights are trained"
    text = f"{beta}; LoRA r {plan.lora.r}, alpha {number_text(plan.lora.lora_alpha)}"
    trained = 0 if facts is None else sum(count_trained_by_adapter(facts, plan.lora))
    return f"{text}; {_count(trained)} trained parameters" if trained else text


def nll_tokens(loss_on_prompt: bool) -> str:
    """The tokens that the NLL is of."""
    return "prompt and chosen completion" if loss_on_prompt else "the chosen completion"


def _sources(dataset: dict[str, Any], held_out_pairs: int | None) -> str:
    """Paths of the sources, and what is held out, with its number of pairs where it was counted."""
    held_out, number = dataset["eval"], "" if held_out_pairs is None else f" ({held_out_pairs:,})"
    if isinstance(held_out, list):
        held_out = ", ".join(short_path(source_label(source["path"])) for source in held_out) + number.replace(
            ")", " pairs)"
        )
    elif held_out is not None:
        size = held_out["test_size"]
        held_out = f"{size:.0%} of the pairs{number}" if 0 < size < 1 else f"{size:g} pairs"
    train = ", ".join(short_path(source_label(source["path"])) for source in dataset["train"])
    turns = "; a pair of each turn" if dataset["turns"] == "all" else ""
    rejected = "" if dataset["rejected"] == "first" else f"; rejected: {dataset['rejected']}"
    return f"{train}; held out: {held_out or 'nothing'}{turns}{rejected}"


def _lengths(plan: Plan, measured: EstimateInputs | None, count: int | None) -> str:
    limit = f"max_length {plan.training['max_length']:,} (a prompt with one completion)"
    if measured is not None:
        tokens = [pair.total for pair in measured.lengths.pairs]
        each = f"{fmean(tokens):,.0f} a pair, {max(tokens):,} at most"
        return f"{count:,} pairs, {sum(tokens):,} tokens with each prompt once ({each}); {limit}"
    known = "" if count is None else f"about {count:,} pairs, "
    return f"{known}lengths not measured, {limit}"


def _memory(estimate: dict[str, Any], screen: Screen) -> list[str]:
    parts, available = dict(estimate["memory_bytes"]), estimate["available_bytes"]
    total = parts.pop("total")
    where = f" on each of {estimate['processes']} devices" if "processes" in estimate else ""
    text = f"{total / 1e9:.1f} of {available / 1e9:.1f} GB{where}: {estimate['verdict']}"
    if screen.has_bar:
        filled = min(MEMORY_BAR, round(MEMORY_BAR * total / max(1, available)))
        full, empty = ("█", "░") if screen.has_unicode else ("#", ".")
        text = f"{full * filled}{empty * (MEMORY_BAR - filled)} {text}"
    largest = sorted(parts.items(), key=lambda part: -part[1])[:MAX_PARTS_SHOWN]
    kind = "" if estimate["lengths"] == "of the pairs" else "at most, for the longest pairs that max_length allows: "
    shares = ", ".join(f"{LABELS.get(name, name)} {size / 1e9:.1f}" for name, size in largest if size >= 5e7)
    savings = estimate["savings"][:MAX_SAVINGS_SHOWN]
    return [text, kind + shares, *(f"with {each['setting']}: {each['total_bytes'] / 1e9:.1f} GB" for each in savings)]


def _time(plan: Plan, estimate: dict[str, Any], steps: int | None, pairs: int | None, done: int) -> str:
    step, total = estimate["step"], estimate["training"]
    about = "about" if estimate["lengths"] == "of the pairs" else "at most, for pairs of max_length:"
    tokens = step["tokens"] * plan.launch.num_processes
    kind = "each prompt twice" if plan.engine.fast_path == "off" else "all but the last of each completion"
    amount = f"a full step has {_count(tokens)} input tokens ({kind})"
    if step["seconds"] is None:
        return f"not known: {step['how']}; {amount}"
    each = f"{duration_text(step['seconds'])} a step"
    if plan.device == "cpu":  # measured now, without what other programs take
        amount += "; longer beside other programs"
    if steps is None:
        return f"{about} {each}; {amount}"
    left, seconds = steps_left(steps, done), step["seconds"] * steps_left(steps, done)
    rest, evaluations = f" for the {left:,} steps left" if done else "", ""
    due = [at for at in evaluation_steps(plan, steps, pairs) if at > done or not done]
    if due and total["evaluation_seconds"] is None:
        evaluations = " without evaluations"
    elif due:
        evaluating = total["evaluation_seconds"] / total["evaluations"] * len(due)
        seconds += evaluating
        evaluations = f", {duration_text(evaluating)} of it for {len(due)} evaluation{'s' * (len(due) != 1)}"
    return f"{about} {duration_text(seconds)}{rest}{evaluations}: {each}; {amount}"


def _decisions(plan: Plan, width: int | None, lines: int) -> Iterator[str]:
    """Values that were decided, with their reasons, in at most so many lines."""
    decided = {
        path: (value, reason)
        for path, value, origin, reason in plan_lines(plan.to_document())
        if origin == "decided" and not (path == STRATEGY and value == "single")
    }
    for path in DECISIONS:
        if path not in decided:
            continue
        value, reason = decided[path]
        wrapped = wrap_with_indent(one_line(f"{path} = {value}: {reason}"), width, "  ", "    ")
        if (lines := lines - len(wrapped)) < 0:
            return
        yield from wrapped


def wrap_with_indent(text: str, width: int | None, first: str, others: str | None = None) -> list[str]:
    """Lines that end between words; a path is never divided."""
    if width is None:
        return [(first + text).rstrip()]
    others = " " * len(first) if others is None else others
    wide = max(1, min(width, MAX_WIDTH) - 1)
    return textwrap.wrap(
        text, wide, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]


def short_path(path: str) -> str:
    """A path below the current directory without that; other names as they are."""
    if os.path.isabs(path):
        relative = os.path.relpath(path)
        return path if relative.startswith("..") else relative
    return path


def _count(number: float) -> str:
    """``134.5M``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
