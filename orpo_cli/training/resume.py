"""Going on with a run: from which checkpoint, and only with the same plan."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import UsageError
from orpo_cli.plan.plan import Plan
from orpo_cli.rundir import RUNNING, RunDir, is_complete

# What may differ when a run goes on: it changes when things happen or what is made of the result, not the steps.
FREE = (
    "name", "output_dir", "device", "merge.", "export.", "hub.", "engine.max_tokens_per_microbatch",
    "training.gradient_checkpointing",
    "training.max_steps", "training.num_train_epochs", "training.logging_", "training.eval_s", "training.save_",
    "training.report_to", "training.run_name", "training.per_device_eval_batch_size", "training.dataloader_",
)  # fmt: skip


def checkpoint_to_resume(rundir: RunDir, plan: Plan, resume: str) -> Path | None:
    """The checkpoint that ``resume`` (``auto`` or a path) means; None where an ``auto`` run has none yet.

    Raises UsageError where the path is no checkpoint of this run, a process is writing the run, or the plan has changed.
    """
    if rundir.is_alive():
        raise UsageError(f"{rundir.root}: a run is going on there (process {rundir.read_run().get('pid')}).")
    _refuse_changes(rundir.read_plan(), plan, rundir)
    if resume == "auto":
        return rundir.last_checkpoint()
    path = Path(resume).absolute()
    if not is_complete(path):
        raise UsageError(
            f"--resume {resume}: not a complete checkpoint (no trainer_state.json that can be read).",
            remedy="Use --resume auto.",
        )
    if path.parent.resolve() != rundir.checkpoints.resolve():
        raise UsageError(
            f"--resume {resume}: not a checkpoint of {rundir.root}.", remedy=f"Those lie in {rundir.checkpoints}."
        )
    return path


def take_over(rundir: RunDir, plan: Plan) -> None:
    """Mark a run as going on in this process, under the plan as it is now."""
    atomic_write_text(rundir.plan, plan.to_json())
    rundir.write_run(status=RUNNING, pid=os.getpid(), host=platform.node(), error=None)


def _refuse_changes(before: Plan, now: Plan, rundir: RunDir) -> None:
    old, new = _flat(before.values()), _flat(now.values())
    changed = [
        f"{path}: {old.get(path)!r} → {new.get(path)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and not path.startswith(FREE)
    ]
    if changed:
        raise UsageError(
            f"{rundir.root} was begun with other settings:\n  " + "\n  ".join(changed),
            remedy="Resume with the recipe it was begun with, or start anew: --set output_dir=DIR.",
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {path: value for key, inner in values.items() for path, value in _flat(inner, f"{prefix}{key}.").items()}
