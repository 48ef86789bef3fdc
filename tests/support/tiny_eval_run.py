"""Run with held-out pairs for evaluation and chat: the run of tiny_run with the pairs of tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo_cli.evaluation.eval_target import EvalTarget, open_eval_target
from orpo_cli.planning.plan import DatasetPlan
from orpo_cli.recipe.schema import Source
from orpo_cli.rundir import RunDir
from support.tiny import write_pairs
from support.tiny_run import make_base, make_run

TRAIN_PAIRS, HELD_OUT = 12, 7


def make_eval_run(folder: Path, **changes: Any) -> RunDir:
    """A LoRA run (``full=True``: every weight) of 12 training and 7 held-out pairs; ``changes`` are tiny_run's."""
    base = folder / "base"
    if not base.exists():
        make_base(base)
    train = write_pairs(folder / "train.jsonl", TRAIN_PAIRS)
    held_out = write_pairs(folder / "heldout.jsonl", HELD_OUT, start=50)
    sections: dict[str, Any] = {
        "dataset": DatasetPlan(
            train=[Source(path=str(train))], eval=[Source(path=str(held_out))], max_prompt_length=96
        ),
        "training": {"beta": 0.3, "max_length": 192},
    }
    return make_run(folder / "run", base, **{**sections, **changes})


def open_target_quietly(name: Path | str, *, chat_template: str | None = None) -> EvalTarget:
    """``open_eval_target`` without its notes."""
    return open_eval_target(str(name), chat_template=chat_template, note=lambda _: None)
