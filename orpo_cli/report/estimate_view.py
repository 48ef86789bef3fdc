"""View of the memory and time estimate of a plan: a document for --json, and lines of text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orpo_cli.estimate.batching import evaluation_steps
from orpo_cli.estimate.fit_to_memory import memory_savings, verdict
from orpo_cli.estimate.memory import EstimateInputs, trace_largest_micro_batch
from orpo_cli.estimate.strategies import STRATEGIES, StrategyEstimate, obstacle
from orpo_cli.estimate.strategy_choice import compare_strategies, estimate_plan
from orpo_cli.estimate.throughput import Throughput, estimate_throughput, evaluation_seconds
from orpo_cli.planning.plan import Plan
from orpo_cli.report.plan_steps import planned_steps

MAX_SAVINGS_SHOWN = 4  # settings listed for a step that does not fit
LABELS = {  # of parts whose name does not explain them
    "process": "process and libraries",
    "buffers": "gathered weights, and gradients in communication",
}


def estimate_document(
    plan: Plan, sizing: EstimateInputs, rows: int | None = None, *, compare: bool = True
) -> dict[str, Any]:
    """Memory in bytes by part at the peak of a step, tokens and seconds per step, and savings if it does not fit.

    For several processes all of this is of one of them, and a comparison of the strategies follows, unless ``compare`` is false.
    ``training`` has the totals of all steps and processes, the number of evaluations and the seconds of all of them, which are not in
    ``seconds``; None where one is not known. ``rows``: about how many pairs there are, where they were not measured.
    """
    memory, step = estimate_plan(plan, sizing), estimate_throughput(plan, sizing)
    fit = verdict(memory, sizing)
    savings = memory_savings(plan, sizing) if fit != "fits" else []
    untraced = trace_largest_micro_batch(plan, sizing)[0].untraced
    if isinstance(memory, StrategyEstimate):
        parts = {**asdict(memory.memory), "buffers": memory.buffers}
        several = _several_processes(plan, sizing, memory) if compare else {"processes": plan.launch.num_processes}
    else:
        parts, several = asdict(memory), {}
    return {
        "memory_bytes": {**{name: round(size) for name, size in parts.items()}, "total": round(memory.total)},
        "available_bytes": sizing.available_bytes,
        "verdict": fit,
        "savings": [{"setting": each.setting, "total_bytes": round(each.total)} for each in savings],
        "step": asdict(step),
        "training": _totals(plan, sizing, step, len(sizing.lengths.pairs) if sizing.lengths.measured else rows),
        "lengths": "of the pairs" if sizing.lengths.measured else "the maximum that max_length allows",
        "data_notes": list(sizing.lengths.notes),
        "activations": "traced" if untraced is None else f"roughly, from the widths of the layers ({untraced})",
        "measured": plan.device != "mps",
        **several,
    }


def _totals(plan: Plan, sizing: EstimateInputs, step: Throughput, pairs: int | None) -> dict[str, Any]:
    steps = planned_steps(plan, pairs)
    if steps is None:
        return dict.fromkeys(("steps", "seconds", "tokens", "evaluations", "evaluation_seconds"))
    evaluations, held_out = len(evaluation_steps(plan, steps, pairs)), sizing.lengths.held_out
    each = None if held_out is None else evaluation_seconds(plan, sizing, step, held_out)
    return {
        "steps": steps,
        "seconds": None if step.seconds is None else step.seconds * steps,
        "tokens": step.tokens * plan.launch.num_processes * steps,
        "evaluations": evaluations,
        "evaluation_seconds": 0.0 if not evaluations else None if each is None else each * evaluations,
    }


def _several_processes(plan: Plan, sizing: EstimateInputs, memory: StrategyEstimate) -> dict[str, Any]:
    reasons = {each.name: obstacle(plan, each) for each in STRATEGIES}
    return {
        "processes": plan.launch.num_processes,
        "device_name": sizing.machine.device_name,
        "strategy": memory.strategy.name,
        "host_bytes": round(memory.host),
        "sent_bytes": round(memory.sent),
        "strategies": [asdict(row) for row in compare_strategies(plan, sizing)],
        "excluded": {name: reason for name, reason in reasons.items() if reason is not None},
    }


def estimate_lines(document: dict[str, Any]) -> list[str]:
    """The document as text; each line is a YAML comment."""
    memory = document["memory_bytes"]
    kind = "estimated" if document["measured"] else "estimated, the method has not been measured on this device"
    if document["activations"] != "traced":
        kind += f", activations {document['activations']}"
    several = "strategies" in document
    lines = _machine_lines(document) if several else []
    lines.append(f"# memory at the peak of a step ({kind}; lengths: {document['lengths']})")
    lines += [f"#   {_gb(size)}  {LABELS.get(name, name)}" for name, size in memory.items() if size and name != "total"]
    lines.append(
        f"#   {_gb(memory['total'])}  in total, of {document['available_bytes'] / 1e9:.1f} GB available: {document['verdict']}"
    )
    lines += [
        f"#   with {each['setting']}: {each['total_bytes'] / 1e9:.2f} GB"
        for each in document["savings"][:MAX_SAVINGS_SHOWN]
    ]
    step = document["step"]
    duration = "" if step["seconds"] is None else f", about {_seconds(step['seconds'])}"
    subject = "in a full step of a process" if several else "in a full step"
    lines.append(f"# {subject}: {step['pairs']} pairs, about {step['tokens']:,} input tokens{duration} ({step['how']})")
    return [*lines, *_strategy_lines(document)] if several else lines


def _machine_lines(document: dict[str, Any]) -> list[str]:
    sizes = f"{document['memory_bytes']['total'] / 1e9:.1f} of {document['available_bytes'] / 1e9:.1f} GB"
    strategy, processes, device = document["strategy"], document["processes"], document["device_name"]
    return [
        f"# {processes} processes, each on its own {device}:",
        f"#   with {strategy}, a step {document['verdict']}: {sizes} on each",
    ]


def _strategy_lines(document: dict[str, Any]) -> list[str]:
    """The comparison of the strategies, at most 60 characters wide for known settings."""
    settings = list(dict.fromkeys(row["setting"] for row in document["strategies"] if row["setting"]))
    lines = [
        f"# main memory of the host: about {document['host_bytes'] / 1e9:.1f} GB",
        f"# sent by each process in a step: about {_short_gb(document['sent_bytes'])} GB",
        "# strategies: GB of a device and of the host with the smallest",
        "# micro-batch, GB sent in a step, smallest GPU that fits",
        f"# {'strategy':<26}{'device':>6} {'host':>5} {'sent':>6}  fits GPU",
    ]
    for row in document["strategies"]:
        device, host, sent = (_short_gb(row[f"{part}_bytes"]) for part in ("device", "host", "sent"))
        smallest = "none" if row["smallest_device"] is None else f"{row['smallest_device']} GB"
        name = row["strategy"] + (" " + "*" * (settings.index(row["setting"]) + 1) if row["setting"] else "")
        fits = "yes" if row["fits"] else "no"
        lines.append(f"# {name:<26}{device:>6} {host:>5} {sent:>6}  {fits:<4} {smallest}")
    lines += [f"# {'*' * number} with {setting}" for number, setting in enumerate(settings, 1)]
    return lines + [f"# {name}: not possible, {reason}" for name, reason in document["excluded"].items()]


def _gb(size: float) -> str:
    return f"{size / 1e9:7.2f} GB"


def _short_gb(size: float) -> str:
    if size < 1e7:
        return "<0.01" if size else "0"
    return f"{size / 1e9:,.0f}" if size >= 1e11 else f"{size / 1e9:.3g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
