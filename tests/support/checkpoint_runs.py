"""Runs with checkpoints, copied and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo_cli.checkpoint_manifest import MANIFEST, CheckpointManifest

STEPS, KILLED_IN = 6, 5
SAVING = {"save_strategy": "steps", "save_steps": 2}


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def resume(orpo_here: Callable[..., Any], recipe: Path, run: Path, how: object = "auto", *settings: str) -> Any:
    overrides = [part for setting in (f"output_dir={run}", *settings) for part in ("--set", setting)]
    return orpo_here("train", recipe, "--resume", how, *overrides)


def weights_only(checkpoint: Path) -> None:
    manifest = CheckpointManifest.from_json((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(replace(manifest, resumable=False).to_json())
