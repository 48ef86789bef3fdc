"""Checkpoints: the save of orpo-cli against the save of the Hugging Face Trainer that it extends. Seconds of both.

    python -m benchmarks.checkpoint [--rounds 15]

One trainer saves its checkpoint both ways, alternating, after one step: a LoRA adapter (r 16), and all weights of a model of the
shape of SmolLM2-135M in float32. The Trainer writes the files and leaves the rest to the system. orpo-cli also looks for values
that are not finite; then, while the training continues, it writes the files to the disk, computes their digests and renames the
folder. So there are two times: how long the training waits, and the processor time of everything, also after the wait. The
difference that a save makes to the steps after it is smaller than the noise of these steps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import random_model
from benchmarks.paired import describe_machine
from benchmarks.preparation import tokenizer, write_synthetic_pairs
from orpo_cli.library_messages import silence_libraries

MODEL = "smollm2-135m"


def make_trainer_after_one_step(folder: Path, *, lora: bool) -> Any:
    """A trainer whose optimizer has a state, as in a run."""
    import torch

    from benchmarks.models import ARCHITECTURES
    from orpo_cli.data.prepare import prepare
    from orpo_cli.machine import probe
    from orpo_cli.planning.resolve import resolve
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

    write_synthetic_pairs(folder / "pairs.jsonl", 4)
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({**ARCHITECTURES[MODEL], "dtype": "float32"}))
    recipe = {
        "model": {"model_name_or_path": str(base), "dtype": "float32"},
        **({"lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}} if lora else {}),
        "dataset": {"train": {"path": str(folder / "pairs.jsonl")}, "max_prompt_length": 64},
        "training": {
            "max_length": 128, "max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
            "save_strategy": "no", "eval_strategy": "no", "use_cpu": not torch.cuda.is_available(),
        },
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    plan = resolve(load_recipe(str(folder / "recipe.json")), probe())
    smollm2 = tokenizer()
    data = prepare(plan.dataset, smollm2, max_length=128, max_prompt_length=64, note=lambda _: None)
    inputs = TrainingInputs(random_model(base, torch.float32, plan.device), smollm2, data.train)
    trainer = make_trainer(plan, folder / "checkpoints", inputs, [], lambda _: None)
    trainer.train()
    return trainer


def compare(rounds: int, *, lora: bool) -> dict[str, Any]:
    """Medians of each save, in seconds: ``waits`` until the next step begins, ``computes`` of all processors, with what follows.

    ``bytes`` is the size of a checkpoint.
    """
    from transformers import Trainer

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        trainer = make_trainer_after_one_step(folder, lora=lora)
        saves: dict[str, Callable[[], None]] = {
            "Trainer": lambda: Trainer._save_checkpoint(trainer, trainer.model, None),
            "orpo-cli": lambda: trainer._save_checkpoint(trainer.model, None),
        }
        times: dict[str, list[list[float]]] = {name: [] for name in saves}
        size = 0
        for number in range(rounds + 1):
            for name in sorted(saves, reverse=bool(number % 2)):  # what comes after a save reuses its pages of memory
                os.sync()  # the data of the save before is not written during this one
                began, computed = time.perf_counter(), time.process_time()
                saves[name]()
                waited = time.perf_counter() - began
                trainer.finish_checkpoint()
                times[name].append([waited, time.process_time() - computed])
                size = max(
                    size, sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
                )
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        # The first of each warms up.
        medians = {
            name: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for name, rows in times.items()
        }
        kinds = ("waits", "computes")
        return {
            "bytes": size,
            **{kind: {name: medians[name][at] for name in saves} for at, kind in enumerate(kinds)},
        }


def format_row(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [f"{found['bytes'] / 1e6:,.0f}"]
    for kind in ("waits", "computes"):
        trainer, ours = found[kind]["Trainer"], found[kind]["orpo-cli"]
        cells += [f"{trainer:.3f}", f"{ours:.3f}", f"**{ours / trainer:.2f}**"]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    silence_libraries()
    rows = [
        format_row(name, compare(options.rounds, lora=lora))
        for name, lora in (("LoRA adapter, r 16", True), ("all weights, float32", False))
    ]
    print(
        f"Saving a checkpoint of a model of the size of SmolLM2-135M, {describe_machine()}; "
        f"medians of {options.rounds} alternating saves "
        "(waits: until the next step begins; processor: time of all processors, until all is written)\n\n"
        "| trained | MB | Trainer waits, s | orpo-cli waits, s | ratio | Trainer processor, s | orpo-cli processor, s | ratio |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


if __name__ == "__main__":
    main()
