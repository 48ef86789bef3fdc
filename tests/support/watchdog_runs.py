"""Trainings that go wrong on purpose, for each watchdog, and their recorded metrics.

``python -m support.watchdog_runs [CODE …]``, from ``tests/``, trains them (a few seconds each, a minute for those of SmolLM2) and writes
``unit/watchdogs/recorded/CODE.json``: the settings that the rules use, and the lines of metrics.jsonl.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.train import train_recipe
from support.json_lines import write_json_lines
from support.tiny import save_tiny_model, write_pairs

RECORDED = Path(__file__).parents[1] / "unit" / "watchdogs" / "recorded"
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SETTINGS = ("beta", "learning_rate", "max_grad_norm", "max_steps", "num_train_epochs")
FIELDS = (
    "kind", "event", "step", "epoch", "pairs", "tokens", "loss", "nll_loss", "log_odds_ratio", "rewards/accuracies", "logps/chosen",
    "logps/rejected", "grad_norm", "tokens_per_second",
)  # fmt: skip
Values = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A training of the tiny model, in a folder: ``write`` writes its pairs and returns what its recipe changes."""

    write: Callable[[Path], Values]
    disturb: bool = False  # other processes take the CPUs from the thirtieth line on


def write_case(code: str, folder: Path) -> Path:
    """Write model, pairs and recipe of the case of a watchdog to a folder; the recipe."""
    save_tiny_model(folder / "model", tied=False)
    recipe: Values = {
        "model": {"model_name_or_path": "model"},
        "dataset": {"train": {"path": "train.jsonl"}, "max_prompt_length": 96},
        "training": {
            "beta": 0.25, "learning_rate": 1.0e-3, "max_length": 192, "per_device_train_batch_size": 8, "warmup_steps": 0,
            "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "eval_strategy": "no", "save_strategy": "no",
            "lr_scheduler_type": "constant",
        },
        "engine": {"max_tokens_per_microbatch": 4096},
        "output_dir": str(folder / "run"),
    }  # fmt: skip
    for section, values in CASES[code].write(folder).items():
        recipe[section] = recipe.get(section, {}) | values
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train_case(code: str, folder: Path) -> RunDir:
    """Train the case of a watchdog."""
    recipe = write_case(code, folder)
    with disturbed(folder / "run" / "metrics.jsonl", 30) if CASES[code].disturb else nullcontext():
        return train_recipe(str(recipe), [], Console(quiet=True), resume="never", strict=False)


@contextmanager
def disturbed(metrics: Path, after_lines: int) -> Iterator[None]:
    """Context in which other processes keep all CPUs busy as soon as the metrics have so many lines."""
    count = 3 * multiprocessing.cpu_count()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=compute_forever, daemon=True) for _ in range(count)]

    def wait() -> None:
        while not ended.is_set() and not (metrics.exists() and len(metrics.read_text().splitlines()) >= after_lines):
            time.sleep(0.01)
        if not ended.is_set():
            for process in processes:
                process.start()

    ended = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for process in processes:
            if process.pid is not None:
                process.kill()


def compute_forever() -> None:
    """Use one CPU."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        sum(range(10_000))


def evaluations(steps: int) -> Values:
    return {"eval_strategy": "steps", "eval_steps": steps, "per_device_eval_batch_size": 32}


def write_chosen_falls(folder: Path) -> Values:
    """A model that has learned the chosen completions; then the odds ratio term alone counts, with large steps."""
    write_pairs(folder / "train.jsonl", 64)
    write_pairs(folder / "heldout.jsonl", 64, start=100)
    first = folder / "first"
    first.mkdir()
    write_pairs(first / "train.jsonl", 64)
    taught = train_case("taught", first)
    return {
        "model": {"model_name_or_path": str(taught.model)},
        "dataset": {"eval": {"path": "heldout.jsonl"}},
        "training": {"beta": 50.0, "learning_rate": 3e-2, "max_steps": 60, **evaluations(10)},
    }


def write_taught(folder: Path) -> Values:
    """Supervised fine-tuning on the chosen completions."""
    write_pairs(folder / "train.jsonl", 64)
    return {"training": {"beta": 0.0, "learning_rate": 3e-3, "max_steps": 100}}


def write_overfitting(folder: Path) -> Values:
    """Sixteen pairs, again and again."""
    write_pairs(folder / "train.jsonl", 16)
    return {"training": {"beta": 1.0, "learning_rate": 5e-3, "max_steps": 300}}


def write_too_slow(folder: Path) -> Values:
    """A learning rate that is a thousand times too low."""
    write_pairs(folder / "train.jsonl", 200)
    write_pairs(folder / "heldout.jsonl", 128, start=300)
    return {
        "dataset": {"eval": {"path": "heldout.jsonl"}},
        "training": {"beta": 0.1, "learning_rate": 1e-7, "max_steps": 60, **evaluations(10)},
    }


def write_evaluation_worse(folder: Path) -> Values:
    """Eight pairs, which say nothing about the held-out ones."""
    write_pairs(folder / "train.jsonl", 8)
    write_pairs(folder / "heldout.jsonl", 64, start=500)
    return {
        "dataset": {"eval": {"path": "heldout.jsonl"}},
        "training": {"learning_rate": 5e-3, "max_steps": 200, **evaluations(20)},
    }


def write_length_bias(folder: Path) -> Values:
    """Training pairs whose chosen completion is always the longer one; in two fifths of the held-out pairs it is the shorter one."""
    draw = random.Random(0)
    words = ["river", "sky", "paris", "water", "blue", "ice", "day", "clear", "zero", "plain"]

    def pair(swapped: bool) -> Values:
        short = " ".join(draw.choices(words, k=4)) + "."
        long = " ".join(draw.choices(words, k=4)) + ", it is a plain answer" * draw.randint(2, 4) + "."
        chosen, rejected = (short, long) if swapped else (long, short)
        return {"prompt": f"What about {' '.join(draw.choices(words, k=3))}?", "chosen": chosen, "rejected": rejected}

    for name, count, swapped in (("train", 160, 0.0), ("heldout", 100, 0.4)):
        rows = [pair(number < swapped * count) for number in range(count)]
        write_json_lines(folder / f"{name}.jsonl", rows)
    return {
        "dataset": {
            name: {"path": path, "format": "text"}
            for name, path in (("train", "train.jsonl"), ("eval", "heldout.jsonl"))
        },
        "training": {"beta": 1.0, "learning_rate": 3e-3, "max_steps": 60, **evaluations(20)},
    }


def write_loss_spike(folder: Path) -> Values:
    """A learning rate that rises until the training diverges."""
    write_pairs(folder / "train.jsonl", 64)
    return {"training": {"learning_rate": 3.0, "lr_scheduler_type": "linear", "warmup_steps": 120, "max_steps": 121}}


def write_gradient_clipped(folder: Path) -> Values:
    """A maximum that is far below the usual gradient."""
    write_pairs(folder / "train.jsonl", 64)
    return {"training": {"max_grad_norm": 0.05, "max_steps": 80}}


def write_throughput(folder: Path) -> Values:
    """An ordinary training, on a machine that gets other work."""
    write_pairs(folder / "train.jsonl", 64)
    return {"training": {"max_steps": 700, "per_device_train_batch_size": 64, "logging_steps": 20}}


CASES = {
    "taught": Case(write_taught),
    "chosen-likelihood-falls": Case(write_chosen_falls),
    "overfitting": Case(write_overfitting),
    "odds-ratio-negligible": Case(write_too_slow),  # also accuracy-unchanged
    "evaluation-worse": Case(write_evaluation_worse),
    "length-bias": Case(write_length_bias),
    "loss-spike": Case(write_loss_spike),
    "gradient-clipped": Case(write_gradient_clipped),
    "throughput-halved": Case(write_throughput, disturb=True),
}


def recorded(rundir: RunDir) -> Values:
    """The settings and lines of a run that the rules use, with five digits."""
    plan = rundir.read_plan()
    training = {name: plan.training[name] for name in SETTINGS if name in plan.training}
    lines = [
        {name: rounded(value) for name, value in line.items() if name in FIELDS or name.startswith("eval_")}
        for line in map(json.loads, rundir.metrics.read_text().splitlines())
    ]
    return {"plan": {"training": training, "launch": {"pairs_per_step": plan.launch.pairs_per_step}}, "lines": lines}


def rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_record(name: str, rundir: RunDir) -> None:
    record = recorded(rundir)
    lines = ",\n".join(json.dumps(line) for line in record["lines"])
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / f"{name}.json").write_text(f'{{"plan": {json.dumps(record["plan"])}, "lines": [\n{lines}\n]}}\n')


def main() -> None:
    for name in sys.argv[1:] or [*CASES, "quickstart"]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "quickstart":
                overrides = [f"output_dir={folder}/run"]
                write_record(name, train_recipe(str(QUICKSTART), overrides, Console(), resume="never", strict=False))
            elif name != "taught":
                write_record(name, train_case(name, Path(folder)))
        print(f"recorded {name}")


if __name__ == "__main__":
    main()
