"""Pairs of a step over processes: the tokens of the busiest process over their mean, dealt by tokens and in order as TRL does.

    python -m benchmarks.dealing [FILE ...] [--pairs 8]        default: synthetic conversations

The steps are those that a training has: ``StepSampler`` deals them, with the packed lengths that orpo-cli computes. TRL's trainer
gives each process the next ``--pairs`` pairs, whatever their lengths; it computes the padded tokens of its own batch, of which the
last column has the figure.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paired import describe_machine
from benchmarks.preparation import LENGTHS, prepare_pairs, tokenizer, write_synthetic_pairs
from orpo_cli.estimate.batching import random_order
from orpo_cli.library_messages import silence_libraries

RANKS = (2, 4, 8)
STEPS = 300
SEED = 42


def imbalances(packed: Sequence[int], padded: Sequence[int], ranks: int, pairs: int) -> dict[str, list[float]]:
    """Busiest process over the mean, step by step: dealt by tokens, in order, and in order with padding."""
    from orpo_cli.training.step_sampler import Order, StepLayout, StepSampler

    def order(epoch: int) -> Order:
        return random_order(len(packed), SEED + epoch)

    in_step = pairs * ranks
    complete = len(packed) // in_step * in_step
    samplers = [
        StepSampler(complete, packed, StepLayout(in_step, pairs, True, ranks, rank), order) for rank in range(ranks)
    ]
    found: dict[str, list[float]] = {"dealt": [], "in order": [], "padded": []}
    for epoch in range(STEPS):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        taken = order(epoch)
        for number, shares in enumerate(zip(*samplers, strict=True)):
            assert sorted(index for share in shares for index in share) == sorted(
                taken[number * in_step : (number + 1) * in_step]
            )
            batches = [taken[at : at + pairs] for at in range(number * in_step, (number + 1) * in_step, pairs)]
            found["dealt"].append(busiest([sum(packed[index] for index in share) for share in shares]))
            found["in order"].append(busiest([sum(packed[index] for index in batch) for batch in batches]))
            found["padded"].append(busiest([max(padded[index] for index in batch) for batch in batches]))
            if len(found["dealt"]) == STEPS:
                return found
    return found


def busiest(tokens: Sequence[int]) -> float:
    """The largest of the tokens over their mean."""
    return max(tokens) / statistics.fmean(tokens)


def format_figures(values: Sequence[float]) -> str:
    """Mean, 95th percentile and maximum."""
    ordered = sorted(values)
    return f"{statistics.fmean(ordered):.3f} / {ordered[int(0.95 * len(ordered))]:.3f} / {ordered[-1]:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of a process in a step")
    options = parser.parse_args(arguments)
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        print_table(
            options.files or [str(write_synthetic_pairs(Path(folder) / "synthetic.jsonl", 3000))], options.pairs
        )


def print_table(files: Sequence[str], pairs: int) -> None:
    """Print the table of ``files``, with ``pairs`` a process and step."""
    loaded = tokenizer()
    print(
        f"Tokens of the busiest process over the mean of all, {pairs} pairs a process and step, {STEPS} steps, sequences of at most "
        f"{LENGTHS['max_length']:,} tokens: mean / 95th percentile / maximum. Counted, not timed; {describe_machine()}.\n"
    )
    print(
        "| file | processes | orpo-cli | TRL's order | TRL's order, with its padding |\n| --- | --- | --- | --- | --- |"
    )
    for file in files:
        table = prepare_pairs(file, loaded).train
        packed, padded = list(table["packed_length"]), list(table["length"])
        for ranks in RANKS:
            cells = (format_figures(each) for each in imbalances(packed, padded, ranks, pairs).values())
            print(f"| {Path(file).name} | {ranks} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
