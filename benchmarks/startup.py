"""Start times: `orpo train` until its first step, `orpo plan`, and light commands, each compared with the libraries that it needs.

    python -m benchmarks.startup [--runs 3] [--only train plan light]

The sides of a comparison run one after the other, in turns, each in a new process; the table has the medians of processor time,
and of the time that passes on an idle machine. ``first``: with empty caches of plans; ``later``: after a first plan. Python
writes and reads bytecode, as for an installed package, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.paired import describe_machine
from orpo_cli.cache_dir import cache_dir

ROOT = Path(__file__).parents[1]
ORPO = ("-m", "orpo_cli")
STEPS = 3
POLL_SECONDS = 0.005
PLAN_CACHES = ("model-facts", "pair-lengths", "traces", "pairs")
# What a training of the quickstart needs of the libraries: a script with TRL imports and loads the same.
LIBRARIES = """
import sys, torch, transformers, peft, trl
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""
LIGHT_IMPORTS = "import typer, pydantic, yaml"
PLANNED = ("quickstart", "paper/opt-125m-hh", "mistral/mistral-7b-full", "llama/llama3-8b-qlora")
LIGHT = {
    "orpo validate, one recipe": ("validate", "recipes/quickstart.yaml"),
    "orpo validate, every shipped recipe": ("validate", *map(str, sorted(ROOT.glob("recipes/**/*.yaml")))),
    "orpo --version": ("--version",),
    "orpo --help": ("--help",),
}


class Times(NamedTuple):
    """Seconds of a process: of all processors, and passed."""

    processor: float
    passed: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    print(f"{describe_machine()}; medians of {options.runs} alternating runs")
    for name in options.only:
        print()
        TABLES[name](options.runs)


def print_training(runs: int) -> None:
    """`orpo train quickstart` until its first step, compared with the imports and the loading of the model."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        model = converted_quickstart(cache)
        libraries, comparison = [], []
        first: list[Times] = []
        later: list[Times] = []
        for _ in range(runs + 1):
            libraries.append(measure(["-c", LIBRARIES, model]))
            clear_plans(cache)
            for starts in (first, later):
                begin, *steps = measure_training(Path(folder) / "run", cache)
                starts.append(begin)
                step = statistics.median(
                    after.processor - before.processor for before, after in itertools.pairwise(steps)
                )
                comparison.append((steps[0].processor - begin.processor) / step - 1)
        rows = {"imports and model": libraries, "orpo train, first": first, "orpo train, later": later}
        print_rows("until the first step of the quickstart", rows, "imports and model")
        compared = statistics.median(comparison[2:])
        print(
            f"\nThe first step takes {compared:.2f} steps longer than the next ones: trl computes its first pairs, too."
        )


def print_plans(runs: int) -> None:
    """`orpo plan` of recipes."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        converted_quickstart(cache)
        print("| `orpo plan` | first, processor s | later, processor s | first, s | later, s |")
        print("| --- | --- | --- | --- | --- |")
        for recipe in PLANNED:
            first: list[Times] = []
            later: list[Times] = []
            for _ in range(runs):
                clear_plans(cache)
                for times in (first, later):
                    times.append(measure([*ORPO, "plan", recipe], {"ORPO_CACHE": str(cache)}))
            columns = [median(side)[unit] for unit in range(2) for side in (first, later)]
            print(f"| {recipe} | " + " | ".join(f"{each:.2f}" for each in columns) + " |", flush=True)


def print_light(runs: int) -> None:
    """Commands that import no library of models, compared with the imports that they need."""
    rows: dict[str, list[Times]] = {LIGHT_IMPORTS: [], **{name: [] for name in LIGHT}}
    for _ in range(runs + 1):
        rows[LIGHT_IMPORTS].append(measure(["-c", LIGHT_IMPORTS]))
        for name, arguments in LIGHT.items():
            rows[name].append(measure([*ORPO, *arguments]))
    print_rows("light commands", rows, LIGHT_IMPORTS)


TABLES: Mapping[str, Callable[[int], None]] = {"train": print_training, "plan": print_plans, "light": print_light}


def print_rows(title: str, rows: Mapping[str, Sequence[Times]], reference: str) -> None:
    """A table of medians, with the medians of the ratios to ``reference``. The first runs wrote bytecode and do not count."""
    print(f"| {title} | processor s | ratio | s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for name, times in rows.items():
        cells = []
        for unit in range(2):
            pairs = [(each[unit], other[unit]) for each, other in zip(times[1:], rows[reference][1:], strict=True)]
            cells.append(
                f"{median(times[1:])[unit]:.2f} | {statistics.median(each / other for each, other in pairs):.2f}"
            )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def median(times: Sequence[Times]) -> Times:
    """The median of each figure."""
    return Times(*(statistics.median(column) for column in zip(*times, strict=True)))


def measure(arguments: Sequence[str], variables: Mapping[str, str] = {}) -> Times:
    """Times of a Python process from its start to its end."""
    before, started = processor_seconds_of_children(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, **options(variables))
    return Times(processor_seconds_of_children() - before, time.perf_counter() - started)


def measure_training(run: Path, cache: Path) -> list[Times]:
    """Times of `orpo train quickstart` from its start to the begin of its training and to the end of each step."""
    settings = {
        "output_dir": run, "training.max_steps": STEPS, "training.eval_strategy": "no", "training.eval_on_start": "false",
        "training.save_strategy": "no", "training.load_best_model_at_end": "false",
    }  # fmt: skip
    command = [*ORPO, "train", "quickstart", *(f"--set={name}={value}" for name, value in settings.items())]
    started = time.perf_counter()
    process = psutil.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **options({"ORPO_CACHE": str(cache)}),
    )
    found: list[Times] = []
    while len(found) <= STEPS and process.poll() is None:
        used = process.cpu_times()
        now = Times(used.user + used.system, time.perf_counter() - started)
        lines = count_lines(run / "metrics.jsonl")  # the first one is written when training begins
        found += [now] * (lines - len(found))
        time.sleep(POLL_SECONDS)
    errors = process.communicate()[1]
    if process.returncode or len(found) <= STEPS:
        raise SystemExit(f"orpo train failed with {process.returncode}: {errors.decode()}")
    shutil.rmtree(run)
    return found[: STEPS + 1]


def count_lines(path: Path) -> int:
    """Lines of a file that may not exist yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def converted_quickstart(cache: Path) -> str:
    """The folder of the quickstart's model in ``cache``, converted from GGUF as the first use of it does."""
    if (cache_dir() / "gguf").is_dir():
        shutil.copytree(cache_dir() / "gguf", cache / "gguf")
    measure([*ORPO, "plan", "quickstart"], {"ORPO_CACHE": str(cache)})
    return str(next((cache / "gguf").glob("SmolLM2*")))


def clear_plans(cache: Path) -> None:
    """Remove what plans have cached, but no converted models."""
    for name in PLAN_CACHES:
        shutil.rmtree(cache / name, ignore_errors=True)


def options(variables: Mapping[str, str]) -> dict[str, Any]:
    """Options of a measured process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"cwd": ROOT, "env": {**environment, "PYTHONPATH": str(ROOT), **variables}}


def processor_seconds_of_children() -> float:
    """Processor time of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
