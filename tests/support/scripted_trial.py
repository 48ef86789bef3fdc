"""Program that behaves as `orpo train` does for a sweep: it writes the records of a run, and stops at a signal.

A sweep can then be tested in milliseconds a step. Its quality, the fraction of 40 held-out pairs that it prefers rightly, is a value of
the recipe (``training.beta``). What it does besides that is in the environment variable SCRIPTED_TRIALS, by the name of the trial.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PAIRS, STEPS, EVAL_STEPS = 40, 8, 2


def main() -> int:
    """Train, or resume from the last step that was recorded."""
    settings = dict(
        each.split("=", 1) for before, each in zip(sys.argv, sys.argv[1:], strict=False) if before == "--set"
    )
    run = Path(settings["output_dir"])
    quality = float(settings["training.beta"])
    script = json.loads(os.environ.get("SCRIPTED_TRIALS", "{}")).get(run.name, {})
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    run.mkdir(parents=True, exist_ok=True)
    with (run / "starts").open("a") as file:
        variables = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        file.write(json.dumps({"arguments": sys.argv[1:], "time": time.time(), **variables}) + "\n")
    if script.get("fail"):
        print("error: the data is gone\n  → Restore it.", file=sys.stderr)
        return 4
    before = json.loads((run / "run.json").read_text())["steps"] if (run / "run.json").exists() else 0
    (run / "plan.json").write_text("{}")
    write_run(run, "running", before)
    append(run / "metrics.jsonl", {"kind": "event", "event": "attempt", "step": before, "steps": STEPS})
    for step in range(before + 1, STEPS + 1):
        time.sleep(script.get("seconds", 0.02))
        if script.get("kill_at") == step and before == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        append(run / "metrics.jsonl", {"kind": "train", "step": step, "loss": 1.0})
        if step % EVAL_STEPS == 0:
            evaluate(run, step, quality, script.get("first_pair", 0))
        write_run(run, "running", step)
        if stopped:
            write_run(run, "interrupted", step)
            return 130
    write_run(run, "finished", STEPS)
    return 0


def evaluate(run: Path, step: int, quality: float, first_pair: int) -> None:
    """Write an evaluation: at the last step the quality is reached."""
    right = round(PAIRS * quality * (0.5 + 0.5 * step / STEPS))
    margins = [0.5 + 0.01 * index if index < right else -0.5 for index in range(PAIRS)]
    names = [f"heldout.jsonl:{first_pair + index + 1}" for index in range(PAIRS)]
    chosen = [-1.0] * PAIRS
    rejected = [-1.0 - margin for margin in margins]
    append(run / "eval_scores.jsonl", {"step": step, "pairs": names, "chosen": chosen, "rejected": rejected})
    values = {"eval_loss": 1 - quality, "eval_rewards/accuracies": right / PAIRS, "eval_pairs": PAIRS}
    append(run / "metrics.jsonl", {"kind": "eval", "step": step, **values})


def write_run(run: Path, status: str, steps: int) -> None:
    """Write run.json."""
    partial = run / ".run.json.new"
    sweep = {"directory": str(run.parent.parent), "trial": run.name}
    partial.write_text(json.dumps({"status": status, "name": run.name, "steps": steps, "sweep": sweep}))
    partial.replace(run / "run.json")


def append(path: Path, record: dict[str, Any]) -> None:
    """Append a line."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.exit(main())
