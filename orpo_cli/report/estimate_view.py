"""View of the memory and time estimate of a plan: a document for --json, and lines of text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orpo_cli.estimate.fit_to_memory import memory_savings, verdict
from orpo_cli.estimate.memory import EstimateInputs, estimate_memory, trace_largest_micro_batch
from orpo_cli.estimate.throughput import estimate_throughput
from orpo_cli.plan.plan import Plan

MAX_SAVINGS_SHOWN = 4  # settings listed for a step that does not fit
LABELS = {"process": "process and libraries"}  # of parts whose name does not explain them


def estimate_document(plan: Plan, sizing: EstimateInputs) -> dict[str, Any]:
    """Memory in bytes by part at the peak of a step, tokens and seconds per step, and savings if it does not fit."""
    memory, step = estimate_memory(plan, sizing), estimate_throughput(plan, sizing)
    fit = verdict(memory, sizing)
    savings = memory_savings(plan, sizing) if fit != "fits" else []
    untraced = trace_largest_micro_batch(plan, sizing)[0].untraced
    return {
        "memory_bytes": {**{name: round(size) for name, size in asdict(memory).items()}, "total": round(memory.total)},
        "available_bytes": sizing.available_bytes,
        "verdict": fit,
        "savings": [{"setting": each.setting, "total_bytes": round(each.total)} for each in savings],
        "step": asdict(step),
        "lengths": "of the pairs" if sizing.lengths.measured else "the maximum that max_length allows",
        "activations": "traced" if untraced is None else f"roughly, from the widths of the layers ({untraced})",
        "measured": plan.device != "mps",
    }


def estimate_lines(document: dict[str, Any]) -> list[str]:
    """The document as text; each line is a YAML comment."""
    memory = document["memory_bytes"]
    kind = "estimated" if document["measured"] else "estimated, the method has not been measured on this device"
    if document["activations"] != "traced":
        kind += f", activations {document['activations']}"
    lines = [f"# memory at the peak of a step ({kind}; lengths: {document['lengths']})"]
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
    lines.append(f"# per step: {step['pairs']} pairs, about {step['tokens']:,} tokens{duration} ({step['how']})")
    return lines


def _gb(size: float) -> str:
    return f"{size / 1e9:7.2f} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
