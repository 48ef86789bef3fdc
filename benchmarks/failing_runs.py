"""Runs made to fail: the quickstart's recipe with one mistake each, and the figures of docs/how-to/read-your-curves.md.

    python -m benchmarks.failing_runs [NAME ...] [--runs build/failing-runs]

Each run is an `orpo train` in its own process. A finished run is kept, and an interrupted one continues. Prints which
watchdogs reported something, and at which step. ``--figures-only`` draws the runs that are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.paper.runs import QUICKSTART, ROOT
from orpo_cli.json_files import read_json_lines
from orpo_cli.report.run_history import RunHistory, read_history
from orpo_cli.report.svg_charts import COLOURS, Panel, Series, render_image

Pair = dict[str, Any]
Pairs = tuple[list[Pair], list[Pair]]  # for training, held out
HEALTHY = "healthy"
PAIRS, HELD_OUT = 96, 52  # 12 steps; watchdogs judge 50 held-out pairs or more
TITLES = {
    "loss": "loss", "grad_norm": "gradient norm", "nll_loss": "NLL per token", "log_odds_ratio": "log odds ratio", "margin": "margin",
    "logps/chosen": "log p of chosen", "logps/rejected": "log p of rejected", "rewards/accuracies": "accuracy, training",
    "eval.loss": "loss, held out", "eval.accuracy": "accuracy, held out", "eval.chosen": "log p of chosen, held out",
    "eval.accuracies_chosen_longer": "accuracy where chosen is longer", "eval.accuracies_chosen_shorter": "accuracy where chosen is shorter",
}  # fmt: skip


def repeated(pairs: Pairs) -> Pairs:
    """A few training pairs many times, as joined copies of a file have them."""
    train, held_out = pairs
    return train[: PAIRS // 8] * 8, held_out


def prompt_in_completions(pairs: Pairs) -> Pairs:
    """Completions that start with the prompt again, as conversations under `chosen` beside a `prompt` column have them."""
    return tuple([_with_prompt(pair) for pair in part] for part in pairs)  # type: ignore[return-value]


def _with_prompt(pair: Pair) -> Pair:
    question = pair["prompt"][-1]["content"]
    return _with_completions(pair, *(f"{question}\n\n{pair[name][0]['content']}" for name in ("chosen", "rejected")))


def both_lengths(pairs: Pairs) -> Pairs:
    """Held-out pairs of both kinds, while all chosen completions of the training are shorter: half of the rejected ones are cut short."""
    train, held_out = pairs
    half = len(held_out) - HELD_OUT // 2
    return train, held_out[:half] + [_cut_rejected(pair) for pair in held_out[half:]]


def _cut_rejected(pair: Pair) -> Pair:
    words = pair["chosen"][0]["content"].split()
    return _with_completions(pair, " ".join(words), " ".join(words[: max(2, len(words) // 4)]))


def _with_completions(pair: Pair, chosen: str, rejected: str) -> Pair:
    contents = {"chosen": chosen, "rejected": rejected}
    return pair | {name: [{"role": "assistant", "content": text}] for name, text in contents.items()}


@dataclass(frozen=True)
class FailingRun:
    """A mistake: changed settings, changed pairs, and the curves that show it."""

    curves: tuple[str, ...]
    training: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    pairs: Callable[[Pairs], Pairs] = lambda pairs: pairs


RUNS = {
    HEALTHY: FailingRun(("loss", "logps/chosen", "logps/rejected", "eval.accuracy")),
    "learning-rate": FailingRun(("loss", "grad_norm", "eval.chosen"), {"learning_rate": 7e-3}),
    "learning-rate-100": FailingRun(("loss", "grad_norm", "eval.chosen"), {"learning_rate": 7e-2}),
    "beta": FailingRun(("nll_loss", "grad_norm", "margin"), {"beta": 50.0}),
    "duplicates": FailingRun(
        ("logps/chosen", "eval.chosen", "eval.loss"), dataset={"rules": {"duplicate": False}}, pairs=repeated
    ),
    "prompt-twice": FailingRun(("logps/chosen", "logps/rejected", "margin"), pairs=prompt_in_completions),
    "length": FailingRun(
        ("eval.accuracies_chosen_shorter", "eval.accuracies_chosen_longer", "margin"), pairs=both_lengths
    ),
}


def write_recipe(name: str, folder: Path) -> Path:
    """The recipe and the pairs of a run."""
    run, recipe = RUNS[name], yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    files = [QUICKSTART.parent / recipe["dataset"][part]["path"] for part in ("train", "eval")]
    parts = run.pairs(tuple([json.loads(line) for line in file.open(encoding="utf-8")] for file in files))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in zip(("train", "eval"), (parts[0][:PAIRS], parts[1][-HELD_OUT:]), strict=True):
        path = (folder / f"{name}-{part}.jsonl").resolve()
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        recipe["dataset"][part] = {"path": str(path)}
    recipe["dataset"] |= run.dataset
    recipe["training"] |= {"eval_strategy": "steps", "eval_steps": PAIRS // 16, "save_strategy": "no", **run.training}
    recipe |= {"name": name, "output_dir": str((folder / name).resolve())}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def train(name: str, folder: Path) -> None:
    """Train a run unless it is finished; a run that the watchdogs or a loss that is not finite end has failed as intended."""
    history = read_history(folder / name) if (folder / name / "run.json").is_file() else None
    if history is not None and history.status in ("finished", "failed"):
        return
    command = [sys.executable, "-m", "orpo_cli", "train", str(write_recipe(name, folder)), "--resume", "auto"]
    subprocess.run(command, check=False)


def draw(name: str, folder: Path, images: Path) -> None:
    """The curves of a run in red, those of the healthy run in blue."""
    histories = [(read_history(folder / each), each) for each in dict.fromkeys((HEALTHY, name))]
    panels = [
        Panel(
            TITLES[metric], [_series(history, metric, label, index) for index, (history, label) in enumerate(histories)]
        )
        for metric in RUNS[name].curves
    ]
    target = images / f"failing-{name}.svg"
    target.write_text(render_image(panels, width=300, height=220), encoding="utf-8")


def _series(history: RunHistory, metric: str, label: str, index: int) -> Series:
    points = [(float(record["step"]), value) for record, value in history.points(metric) if "step" in record]
    return Series(label, COLOURS[index], points)


def warnings(folder: Path) -> list[str]:
    """The events of the watchdogs, one text each."""
    events = [line for line in read_json_lines(folder / "metrics.jsonl") if line.get("event") == "watchdog"]
    return [f"step {event.get('step')}: {event.get('code')}" for event in events]


def main() -> None:
    """Train what is missing, draw, and print what the watchdogs say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "failing-runs")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--figures-only", action="store_true")
    options = parser.parse_args()
    names = options.names or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in names:
        if not options.figures_only:
            train(name, options.runs)
        draw(name, options.runs, options.images)
        found = warnings(options.runs / name)
        print(f"{name}: {'; '.join(found) or 'no watchdog'}", flush=True)


if __name__ == "__main__":
    main()
