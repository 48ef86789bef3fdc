"""Pairs that begin alike: steps that compute a shared beginning once (a prefix tree), against each pair alone. Processor time a pair.

    python -m benchmarks.trees [FILE ...]                  preference files of conversations; default: synthetic ones
    python -m benchmarks.trees FILE --against CHECKOUT     and against the training steps of another checkout of this project

From each file two sets of pairs are made. *Answers*: four prompts with four rejected answers each, which are the rejected answers of
four rows. *Turns*: a pair of each answer of conversations with several. *Plain* are pairs of the file as they are, which share
little: there the steps must cost the same. A step has all pairs of a set. The sides run in their own processes, alternating; the
first step is left out. Losses must agree. Processor time hardly changes with other load on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine, median, run_alternating
from benchmarks.preparation import prepare_pairs, tokenizer, write_synthetic_pairs
from benchmarks.training import OURS_ENVIRONMENT, Setting, side, table_row
from orpo_cli.cli.main import silence_libraries

PAIRS = 16  # of a step
ANSWERS = 4  # rejected answers of a prompt
MIN_TURNS = 4  # answers of a conversation
MAX_TOKENS = 900  # of a sequence: a prompt that is truncated at its start begins like no other
Messages = list[dict[str, str]]


def answer_pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Messages]]:
    """Each row's prompt and chosen answer with the rejected answers of this row and of the next ones."""
    for at in range(0, len(rows) - ANSWERS + 1, ANSWERS):
        for other in rows[at : at + ANSWERS]:
            yield pair(rows[at]["prompt"], rows[at]["chosen"], other["rejected"])


def turn_pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Messages]]:
    """A pair of each answer of a conversation; the rejected answers are those of other rows."""
    conversations = [[*row["prompt"], assistant(row["chosen"])] for row in rows]
    rejected = (row["rejected"] for row in [*rows, *rows, *rows, *rows])
    for messages in conversations:
        answers = [at for at, each in enumerate(messages) if each["role"] == "assistant"]
        if len(answers) >= MIN_TURNS:
            yield from (pair(messages[:at], messages[at]["content"], next(rejected)) for at in answers)


def plain_pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Messages]]:
    """The pairs as they are."""
    yield from (pair(row["prompt"], row["chosen"], row["rejected"]) for row in rows)


SETS: dict[str, Callable[[list[dict[str, Any]]], Iterator[dict[str, Messages]]]] = {
    "answers": answer_pairs,
    "turns": turn_pairs,
    "plain": plain_pairs,
}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(prompt: Messages, chosen: str, rejected: str) -> dict[str, Messages]:
    return {"prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def write_sets(file: str, folder: Path) -> dict[str, Path]:
    """Write the sets that ``file`` has enough pairs for."""
    table = prepare_pairs(file, tokenizer()).train
    rows = [
        {"prompt": json.loads(row["prompt_json"]), "chosen": row["chosen_text"], "rejected": row["rejected_text"]}
        for row in table
        if row["length"] <= MAX_TOKENS
    ]
    rows = [row for row in rows if isinstance(row["prompt"], list)]
    found = {}
    for name, pairs_of in SETS.items():
        pairs = [each for _, each in zip(range(PAIRS), pairs_of(rows), strict=False)]
        if len(pairs) == PAIRS:
            found[name] = folder / f"{Path(file).stem}-{name}.jsonl"
            found[name].write_text("".join(json.dumps(each) + "\n" for each in pairs))
    return found


def write_synthetic_conversations(path: Path) -> Path:
    """Synthetic pairs, four of which make one conversation."""
    single = write_synthetic_pairs(path, 64 * MIN_TURNS).read_text().splitlines()
    rows = [json.loads(line) for line in single]
    with path.open("w", encoding="utf-8") as file:
        for at in range(0, len(rows), MIN_TURNS):
            *before, last = rows[at : at + MIN_TURNS]
            history = [message for row in before for message in (*row["prompt"], *row["chosen"])]
            file.write(
                json.dumps({**last, "prompt": history[-4:] + last["prompt"] if at % 8 else last["prompt"]}) + "\n"
            )
    return path


def run_side(name: str, file: str, steps: int) -> dict[str, Any]:
    """Train in this process. In ``apart`` a beginning is shared by the completions of a pair alone."""
    from orpo_cli.training.engine import prefix_tree

    if name == "apart":
        prefix_tree.MIN_SHARED_PART = 2.0
    return side("ours", file, PAIRS, steps, 1, Setting())


def compare(name: str, file: Path, against: str, steps: int, rounds: int) -> str:
    """A row of the table."""
    sides = {
        each: ["-m", "benchmarks.trees", str(file), "--steps", str(steps), "--side", each] for each in ("apart", "tree")
    }
    variables: dict[str, dict[str, str]] = dict.fromkeys(sides, OURS_ENVIRONMENT["ours"])
    if against:
        command = ["--steps", str(steps), "--threads", "1", "--side", "ours"]
        sides["other"] = ["-P", "-m", "benchmarks.training", f"{file}:{PAIRS}", *command]
        variables["other"] = {**OURS_ENVIRONMENT["ours"], "PYTHONPATH": against}
    results = run_alternating(sides, rounds, variables=variables)
    print(json.dumps(results), file=sys.stderr)  # every figure of every run
    seconds = {each: median(found, "cpu_seconds_per_pair") for each, found in results.items()}
    memory = {each: median(found, "peak_gb") for each, found in results.items()}
    differences = (
        abs(one / other - 1) for one, other in zip(results["tree"][0]["loss"], results["apart"][0]["loss"], strict=True)
    )
    before = [f"{seconds['other']:.2f}", f"**{seconds['other'] / seconds['tree']:.2f}**"] if against else ["", ""]
    return table_row(
        file.stem.removesuffix(f"-{name}"), name, f"{seconds['apart']:.2f}", f"{seconds['tree']:.2f}",
        f"**{seconds['apart'] / seconds['tree']:.2f}**", *before, f"{memory['apart']:.2f}", f"{memory['tree']:.2f}",
        f"{max(differences):.0e}",
    )  # fmt: skip


HEAD = table_row(
    "file", "pairs", "apart, s a pair", "tree, s a pair", "ratio", "other checkout, s a pair", "ratio", "apart, GB", "tree, GB",
    "loss difference",
)  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files of conversations")
    parser.add_argument("--against", default="", help="folder of another checkout of this project")
    parser.add_argument("--only", nargs="*", choices=SETS, default=list(SETS), help="sets of pairs; default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("apart", "tree"), help=argparse.SUPPRESS)  # one side, in this process
    options = parser.parse_args()
    silence_libraries()
    if options.side:
        print(json.dumps(run_side(options.side, options.files[0], options.steps)))
        return
    rounds, steps = options.rounds, options.steps
    print(
        f"Steps of {PAIRS} pairs, {describe_machine()}, one thread; processor time, medians of {rounds} alternating runs of {steps} steps."
    )
    print(f"\n{HEAD}\n{table_row(*['---'] * 10)}")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or [str(write_synthetic_conversations(Path(folder) / "synthetic.jsonl"))]:
            for name, path in write_sets(file, Path(folder)).items():
                if name in options.only:
                    print(compare(name, path, options.against, steps, rounds), flush=True)


if __name__ == "__main__":
    sys.exit(main())
