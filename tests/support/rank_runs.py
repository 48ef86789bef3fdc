"""Interrupted, failing and resumed trainings on several ranks: ``python -m support.rank_runs FOLDER ONE`` under torchrun.

Each case is a training in a folder of its own, with a fault on one rank. ``ONE`` is the folder of a training of one process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback

from orpo_cli import interruption
from orpo_cli.checkpoint_manifest import find_checkpoints
from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.training.interrupt import InterruptCallback
from orpo_cli.training.live_watchdogs import LiveWatchdogs
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer
from orpo_cli.training.metrics_log import MetricsCallback
from orpo_cli.training.save_before import Deadline, SaveBeforeCallback
from support.ranks import PAIRS_PER_STEP, Observer, rank, world_size
from support.tiny import tiny_llama, tiny_tokenizer, write_pairs

STEPS = 6
DROPOUT = 0.1
# Each with the rank that fails, and where.
FAULTS = {
    "stop-in-step": (1, "step", 3),
    "stop-in-evaluation": (1, "evaluation", 2),
    "stop-in-save": (1, "save", 2),
    "stop-of-first-rank": (0, "step", 1),
    "deadline": (0, "deadline", 2),
    "watchdog": (0, "watchdog", 5),
    "disk-full-in-weights": (0, "save_pretrained", 4),
    "disk-full-in-random-state": (1, "_save_rng_state", 4),
    "disk-full-in-thread": (0, "publish", 2),
}


def train(folder: Path, *, fault: str = "", resume_from: Path | None = None, dropout: bool = False) -> dict[str, Any]:
    """Train in ``folder``, which the ranks share; what this rank has seen."""
    for name, count, start in (("train", 21, 0), ("eval", 7, 50)):
        (folder / f"data-{rank()}").mkdir(parents=True, exist_ok=True)
        write_pairs(folder / f"data-{rank()}" / f"{name}.jsonl", count, start=start)
    sources = {name: {"path": str(folder / f"data-{rank()}" / f"{name}.jsonl")} for name in ("train", "eval")}
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {**sources, "max_prompt_length": 128},
        "lora": {"r": 4, "target_modules": "all-linear", "lora_dropout": DROPOUT if dropout else 0.0},
        "training": {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": max(1, PAIRS_PER_STEP // 2 // world_size()),
            "learning_rate": 1e-3, "max_length": 256, "use_cpu": True, "logging_steps": 1, "seed": 3, "max_grad_norm": 0.5,
            "lr_scheduler_type": "cosine", "optim": "adamw_torch", "max_steps": STEPS, "gradient_checkpointing": False,
            "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": False,
            "load_best_model_at_end": True, "per_device_eval_batch_size": 2, "watchdogs": "stop",
        },
        "engine": {"fast_path": "required"},
        "launch": {"num_processes": world_size()},
    }  # fmt: skip
    path = folder / f"data-{rank()}" / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    plan, tokenizer = resolve(load_recipe(str(path)), probe()), tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=lambda _: None)
    notes: list[str] = []
    metrics = MetricsCallback(folder / "metrics.jsonl", Observer(), lambda: None)
    interrupt, faults = InterruptCallback(notes.append), Faults(fault)
    watchdogs = LiveWatchdogs(plan, metrics)
    if fault == "watchdog":  # the losses of this training are a spike after these
        watchdogs.replay({"kind": "train", "step": step, "loss": 0.01} for step in range(-20, 0))
    inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train, data.eval)
    deadline = [SaveBeforeCallback(Deadline(faults.deadline(), "test"), notes.append)] if fault == "deadline" else []
    callbacks = [metrics, *deadline, faults, interrupt]
    trainer = make_trainer(plan, folder / "checkpoints", inputs, callbacks, notes.append)
    metrics.trainer = faults.trainer = trainer
    error: BaseException | None = None
    with faults.in_files():
        try:
            with interrupt.handle_signals(), watchdogs.ending_training(trainer.agreement):
                interrupt.run_steps(trainer, resume_from)
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
    cause = interruption.cause()
    interruption.forget()
    return {
        "error": type(error).__name__ if error else "", "message": str(error or ""), "cause": cause,
        "notes": notes, "step": trainer.state.global_step,
        "history": [line for line in trainer.state.log_history if "loss" in line or "eval_loss" in line],
        "checkpoints": sorted(each.name for each in find_checkpoints(folder / "checkpoints")),
        "files": sorted(each.name for each in (folder / "checkpoints").iterdir()),
        "weights": {n: each.tolist() for n, each in trainer.model.named_parameters() if each.requires_grad},
    }  # fmt: skip


class Faults(TrainerCallback):
    """The fault of a case, on its rank: a signal to this process, or a full disk."""

    def __init__(self, name: str) -> None:
        at, self.kind, self.step = FAULTS.get(name, (0, "", 0))
        if at != rank() or world_size() == 1:
            self.kind = ""
        self.trainer: Any = None

    def deadline(self) -> float:
        """On the failing rank it is over; on the other one it never is."""
        return 0.0 if self.kind else 1e12

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Send the signal when the first step has begun, in which it is not raised."""
        if self.kind == "step" and state.global_step == self.step - 1:
            self.kind = "now"

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Between two batches of a step."""
        self._signal("now")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After a step that has one batch."""
        self._signal("now")

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """In an evaluation."""
        self._signal("evaluation")

    def on_save(self, *_: Any, **__: Any) -> None:
        """Before ``InterruptCallback`` has seen the save."""
        self._signal("save")

    def _signal(self, kind: str) -> None:
        if self.kind == kind:
            self.kind = ""
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def in_files(self) -> Iterator[None]:
        """Context in which a method that writes files finds the disk full, at one step."""
        owners: dict[str, Any] = {"publish": CheckpointWriter, "save_pretrained": self.trainer.model}
        owner = owners.get(self.kind, self.trainer)
        if not hasattr(owner, self.kind):
            yield
            return
        method: Callable[..., None] = getattr(owner, self.kind)

        def fail(*args: Any, **kwargs: Any) -> None:
            if self.trainer.saver.writer is None or self.trainer.state.global_step == self.step:
                raise OSError(errno.ENOSPC, "No space left on device")
            method(*args, **kwargs)

        setattr(owner, self.kind, fail)
        try:
            yield
        finally:
            setattr(owner, self.kind, method)


def run_cases(folder: Path, one: Path) -> dict[str, Any]:
    """All cases, and trainings that continue from their checkpoints."""
    found = {"undisturbed": train(folder / "undisturbed")}
    found["from-one"] = train(folder / "from-one", resume_from=one / "checkpoints" / "checkpoint-4")
    for name in FAULTS:
        found[name] = train(folder / name, fault=name)
        last = found[name]["checkpoints"][-1:]
        dist.barrier()  # a resumed training writes to the same folder
        if name.startswith("stop"):
            found[f"{name}-resumed"] = train(folder / name, resume_from=folder / name / "checkpoints" / last[0])
    found["dropout"] = train(folder / "dropout", dropout=True)
    checkpoint = folder / "dropout" / "checkpoints" / "checkpoint-2"
    found["dropout-resumed"] = train(folder / "dropout-resumed", dropout=True, resume_from=checkpoint)
    return found


if __name__ == "__main__":
    interruption.install()
    interruption.command_started()
    out, one = map(Path, sys.argv[1:3])
    found = run_cases(out, one) if world_size() == 2 else {"resumed": train(out / "resumed", resume_from=one)}
    (out / f"rank-{rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo's threads may still run, and would abort the process
