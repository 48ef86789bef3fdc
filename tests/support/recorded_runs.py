"""Run directories with the files that a training writes, without training: for tables, reports, comparisons and assertions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.json_lines import write_json_lines

PAIRS = 64
VALUES: dict[str, tuple[Any, str]] = {  # value and origin, by dotted key
    "name": ("recipe", "default"),
    "output_dir": ("runs/recipe", "default"),
    "model.model_name_or_path": ("some/model", "recipe"),
    "lora.r": (8, "recipe"),
    "lora.lora_alpha": (16, "recipe"),
    "dataset.train": ([{"path": "/data/train.jsonl"}], "recipe"),
    "training.beta": (0.1, "decided"),
    "training.learning_rate": (5e-5, "recipe"),
    "training.seed": (42, "default"),
    "hub.repo_id": (None, "default"),
}


def plan_document(values: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    """The content of plan.json with these values."""
    document: dict[str, Any] = {}
    for key, (value, origin) in values.items():
        *sections, name = key.split(".")
        section = document
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = {"value": value, "origin": origin, "reason": "a reason"}
    return document


def train_line(step: int, *, versioned: bool = True, **values: float) -> dict[str, Any]:
    """A line of a logged step."""
    metrics = {
        "loss": 4.0 - step / 10, "nll_loss": 3.5 - step / 10, "log_odds_ratio": -0.6 + step / 100, "grad_norm": 1.5,
        "learning_rate": 5e-5, "rewards/chosen": -0.3, "rewards/rejected": -0.4, "rewards/accuracies": 0.5,
        "rewards/margins": 0.1, "logps/chosen": -3.0 + step / 20, "logps/rejected": -4.0, "log_odds_chosen": 0.5,
        "epoch": step / 10, "tokens_per_second": 500.0 + step, "memory_gb": 1.5,
    }  # fmt: skip
    return _head("train", step, versioned) | {"step": step, **metrics, **values}


def eval_line(step: int, accuracy: float, *, versioned: bool = True, **values: float) -> dict[str, Any]:
    """A line of an evaluation."""
    metrics = {
        "eval_loss": 4.0 - accuracy, "eval_rewards/accuracies": accuracy, "eval_rewards/margins": accuracy / 10,
        "eval_logps/chosen": -3.0 + accuracy, "eval_logps/rejected": -4.0, "eval_nll_loss": 3.0 - accuracy,
    }  # fmt: skip
    pairs = {"eval_pairs": PAIRS} if versioned else {}
    return _head("eval", step, versioned) | {"step": step, **metrics, **pairs, **values}


def event_line(event: str, step: int, **fields: Any) -> dict[str, Any]:
    """A line of an event."""
    return _head("event", step, True) | {"event": event, "step": step, **fields}


def _head(kind: str, step: int, versioned: bool) -> dict[str, Any]:
    if not versioned:
        return {}
    time = f"2026-11-28T05:{step // 60:02d}:{step % 60:02d}.000Z"
    return {"kind": kind, "time": time, "elapsed": step * 2.5, "pairs": step * 8, "tokens": step * 1000}


def write_recorded_run(
    root: Path,
    *,
    accuracies: Sequence[float] = (0.5, 0.625, 0.75),
    status: str = "finished",
    versioned: bool = True,
    values: dict[str, tuple[Any, str]] | None = None,
    run: dict[str, Any] | None = None,
) -> Path:
    """A run of 10 steps for each evaluation; the first accuracy is that of the base model (without ``versioned``: left out).

    ``values``: of the plan, beside ``VALUES``; ``run``: fields of run.json.
    """
    root.mkdir(parents=True)
    (root / "checkpoints").mkdir()
    plan = {**VALUES, "output_dir": (str(root), "override"), **(values or {})}
    plan = {key: leaf for key, leaf in plan.items() if leaf[1] != "absent"}
    (root / "plan.json").write_text(json.dumps(plan_document(plan)))
    (root / "recipe.yaml").write_text("model:\n  model_name_or_path: some/model\n")
    steps = 10 * (len(accuracies) - 1)
    lines = [event_line("attempt", 0, attempt=1, metrics_version=1, steps=steps)] if versioned else []
    for index, accuracy in enumerate(accuracies):
        if index:
            lines += [train_line(step, versioned=versioned) for step in range(10 * index - 9, 10 * index + 1)]
        if index or versioned:
            lines.append(eval_line(10 * index, accuracy, versioned=versioned))
    if versioned and status != "running":
        lines.append(event_line("end", steps, reason=status))
    write_json_lines(root / "metrics.jsonl", lines)
    (root / "data_report.json").write_text(
        json.dumps(
            {
                "train_pairs": 80, "eval_pairs": PAIRS, "fingerprints": {"train": "t", "eval": "e"},
                "sources": [
                    {"part": "train", "location": "/data/train.jsonl", "fingerprint": "one"},
                    {"part": "eval", "location": "/data/heldout.jsonl", "fingerprint": "two"},
                ],
            }
        )
    )  # fmt: skip
    attempt = {"number": 1, "from_step": 0, "to_step": steps, "reason": None if status == "running" else status}
    document = {
        "name": "recipe", "status": status, "started_at": "2026-11-28T05:00:00Z", "attempts": [attempt],
        **({"steps": steps, "seconds": 61.5} if status == "finished" else {}),
        **({"tokens_per_second": 512.5, "peak_memory_gb": 1.75} if versioned and status == "finished" else {}),
        **(run or {}),
    }  # fmt: skip
    (root / "run.json").write_text(json.dumps(document, indent=2))
    return root
