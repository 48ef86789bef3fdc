"""Run directory with the records that a model card is rendered from, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpo_cli.planning.plan import ModelPlan
from orpo_cli.rundir import RunDir
from support.tiny_run import make_plan, write_records

HUB_MODEL = ModelPlan(model_name_or_path="example-org/base-1b", dtype="bfloat16", attn_implementation="sdpa")

REPORT = {
    "train_pairs": 240,
    "eval_pairs": 60,
    "rows_read": 310,
    "kept": 300,
    "dropped": {"identical": 7, "empty_chosen": 3},
    "reasons": {"identical": "both answers are the same", "empty_chosen": "the chosen answer is empty"},
    "truncated_prompts": 2,
    "truncated_completions": 1,
    "max_length": 1024,
    "max_prompt_length": 512,
    "truncation_mode": "keep_end",
    "end_of_turn": "<|im_end|>",
    "sources": [
        {
            "part": "train", "path": "example-org/pairs", "location": "hub:example-org/pairs", "split": "train",
            "format": "preference", "rows_read": 250, "kept": 240, "dropped": {"identical": 7, "empty_chosen": 3},
        },
        {
            "part": "eval", "path": "held.jsonl", "location": "/data/held.jsonl", "split": "train",
            "format": "preference", "rows_read": 60, "kept": 60, "dropped": {},
        },
    ],
}  # fmt: skip


def make_card_run(root: Path, recipe: str = "model:\n  model_name_or_path: x\n", **changes: Any) -> RunDir:
    root.mkdir()
    rundir = RunDir(root)
    rundir.plan.write_text(make_plan(root, "x", **{"model": HUB_MODEL, **changes}).to_json())
    rundir.recipe.write_text(recipe)
    rundir.data_report.write_text(json.dumps(REPORT))
    write_records(rundir)
    return rundir
