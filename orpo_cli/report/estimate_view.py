"""The estimate of a plan: for --json, and in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orpo_cli.estimate.fit_to_memory import memory_savings, verdict
from orpo_cli.estimate.memory import EstimateInputs, estimate_memory, trace_largest_micro_batch
from orpo_cli.estimate.throughput import estimate_throughput
from orpo_cli.plan.plan import Plan

MAX_SAVINGS_SHOWN = 4  # settings that are named where a step does not fit
LABELS = {
    "process": "the process and its libraries",
    "weights": "weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits",
}


def estimate_document(plan: Plan, sizing: EstimateInputs) -> dict[str, Any]:
    """Bytes by part at the peak of a step, tokens and seconds of a step, and what to change where it does not fit."""
    memory, step = estimate_memory(plan, sizing), estimate_throughput(plan, sizing)
    fit = verdict(memory, sizing)
    untraced = trace_largest_micro_batch(plan, sizing)[0].untraced
    return {
        "memory_bytes": {**{name: round(size) for name, size in asdict(memory).items()}, "total": round(memory.total)},
        "available_bytes": sizing.available_bytes,
        "verdict": fit,
        "savings": [
            {"setting": each.setting, "total_bytes": round(each.total)}
            for each in (memory_savings(plan, sizing) if fit != "fits" else [])
        ],
        "step": asdict(step),
        "lengths": "of the pairs" if sizing.lengths.measured else "the most that max_length lets through",
        "activations": "traced" if untraced is None else f"roughly, from the widths of the layers ({untraced})",
        "measured": plan.device != "mps",
    }


def estimate_lines(document: dict[str, Any]) -> list[str]:
    """The same for people, each line a comment."""
    memory = document["memory_bytes"]
    kind = "estimated" if document["measured"] else "estimated, the method has not been measured on this device"
    if document["activations"] != "traced":
        kind += f", activations {document['activations']}"
    lines = [f"# memory at the peak of a step ({kind}; lengths: {document['lengths']})"]
    lines += [f"#   {_gb(memory[name])}  {words}" for name, words in LABELS.items() if memory[name]]
    lines.append(
        f"#   {_gb(memory['total'])}  in all, of {document['available_bytes'] / 1e9:.1f} GB there are: {document['verdict']}"
    )
    lines += [
        f"#   with {each['setting']}: {each['total_bytes'] / 1e9:.2f} GB"
        for each in document["savings"][:MAX_SAVINGS_SHOWN]
    ]
    step = document["step"]
    duration = "" if step["seconds"] is None else f", about {_seconds(step['seconds'])}"
    lines.append(f"# a step: {step['pairs']} pairs, about {step['tokens']:,} tokens{duration} ({step['how']})")
    return lines


def _gb(size: float) -> str:
    return f"{size / 1e9:7.2f} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
