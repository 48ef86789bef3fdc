"""The claims of the ORPO paper with SmolLM2-135M on a CPU: trains all runs and writes docs/paper.md and its figures.

    python -m benchmarks.paper [FILE] [--seeds 3] [--results build/paper]

FILE is a preference file in any format that orpo-cli reads; without one, only the quickstart's pairs are used. Every finished
run is kept in the folder of results, so that the command continues where it was stopped; it takes about an hour on two
cores. With all runs finished it only writes the page again. ``--quick`` takes a few pairs and one seed, to try the command
itself, and writes the page to the folder of results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.paper import cost, page
from benchmarks.paper.runs import CONDITIONS, ROOT, PairFile, Results, Run, Trainings
from orpo_cli.library_messages import silence_libraries

QUICKSTART = PairFile("quickstart")
OTHER = PairFile("file", max_length=160, learning_rate=5e-4)  # short pairs, so that all runs fit into an hour
QUICK: dict[str, Any] = {"pairs": 16, "held_out": 8}
ROUNDS = 2  # of the cost of a step
ONLY_QUICKSTART = ("odds-ratio",)  # conditions


def pair_files(options: argparse.Namespace) -> list[PairFile]:
    """The data sets of the command line."""
    files = [QUICKSTART]
    if options.file:
        name = Path(options.file).name.partition(".")[0]
        files.append(replace(OTHER, name=name, path=str(Path(options.file).resolve())))
    return [replace(each, **QUICK) for each in files] if options.quick else files


def all_runs(files: list[PairFile], seeds: int) -> list[Run]:
    """All training runs, seed by seed, so that an unfinished campaign has complete seeds."""
    runs = [Run(each, "base") for each in files]
    for seed in range(1, seeds + 1):
        for each in files:
            conditions = [name for name in CONDITIONS if each.path == "" or name not in ONLY_QUICKSTART]
            runs += [Run(each, name, seed) for name in conditions]
    return runs


def train_missing(runs: list[Run], results: Results) -> None:
    """Train the runs that are not finished, in this process."""
    from benchmarks.paper.gradient import PAIRS, check_gradient

    trainings = Trainings(results)
    seconds: dict[str, list[float]] = {}
    for number, run in enumerate(runs, 1):
        record = results.read(run.name, run.settings())
        done = record is not None
        if record is None:
            print(f"{time.strftime('%H:%M:%S')} run {number} of {len(runs)}: {run.name}", flush=True)
            record = trainings.run(run)
        if run.condition != "base":
            seconds.setdefault(run.pairs.name, []).append(record["seconds"])
        if not done:
            print(f"    {record['seconds']:.0f} s; {_time_left(runs[number:], results, seconds)}", flush=True)
    settings = {"pairs": PAIRS}
    if results.read("gradient", settings) is None:
        _, held_out = trainings.pairs(runs[0].pairs)
        began = time.perf_counter()
        found = check_gradient(trainings.base, [held_out[at] for at in range(min(PAIRS, len(held_out)))])
        results.write("gradient", settings, found)
        print(
            f"{time.strftime('%H:%M:%S')} gradient of the odds ratio term: {time.perf_counter() - began:.0f} s",
            flush=True,
        )


def _time_left(runs: list[Run], results: Results, seconds: dict[str, list[float]]) -> str:
    every = [each for found in seconds.values() for each in found]
    missing = [run for run in runs if results.read(run.name, run.settings()) is None]
    if not every:
        return f"{len(missing)} runs left"
    left = sum(fmean(seconds.get(run.pairs.name, every)) for run in missing)
    return f"{len(missing)} runs left, about {left / 60:.0f} min"


def measure_cost(results: Results, rounds: int) -> None:
    """Measure the cost of a step, each side in its own process, alternating."""
    for number in range(1, rounds + 1):
        for side in cost.SIDES:
            name, settings = f"cost-{side}-{number}", {"pairs": cost.PAIRS, "steps": cost.STEPS}
            if results.read(name, settings) is not None:
                continue
            print(f"{time.strftime('%H:%M:%S')} cost of a step, {cost.SIDES[side]}, {number} of {rounds}", flush=True)
            found = _run_python("benchmarks.paper.cost", side, stdout=subprocess.PIPE)
            results.write(name, settings, json.loads(found.splitlines()[-1]))


def _run_python(*arguments: str, stdout: int | None = None) -> str:
    environment = {**os.environ, **cost.ENVIRONMENT}
    done = subprocess.run([sys.executable, "-m", *arguments], stdout=stdout, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed with {done.returncode}; the finished runs are kept")
    return done.stdout or ""


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="", help="a preference file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "paper")
    parser.add_argument(
        "--quick", action="store_true", help="few pairs, one seed, nothing written outside of the results"
    )
    parser.add_argument("--note", default="", help="a sentence about the machine for the table of costs")
    parser.add_argument("--page-only", action="store_true", help="train nothing; the page of the finished runs")
    parser.add_argument("--trainings", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    silence_libraries()
    if options.quick:
        options.seeds = 1
        options.results = options.results.with_name(f"{options.results.name}-quick")
    results = Results(options.results)
    runs = all_runs(pair_files(options), options.seeds)
    if options.trainings:
        train_missing(runs, results)
        return
    if not options.page_only:
        _run_python("benchmarks.paper", *sys.argv[1:], "--trainings")
        measure_cost(results, 1 if options.quick else ROUNDS)
    docs = options.results / "docs" if options.quick else ROOT / "docs"
    page.write(docs, runs, results, options.note)


if __name__ == "__main__":
    main()
