"""Large data: preparation, start with a warm cache, an epoch's order, loading and resuming, at several numbers of pairs.

    python -m benchmarks.large_data [--pairs 1000000] [--no-gzip]

Synthetic conversations of 60 to 200 tokens. Every figure is of a separate process: processor seconds of all its threads, which
other load on the machine changes less than the time on the clock, and the peak of its resident memory, to which the operating
system counts the pages of mapped files. ``train`` is the command ``orpo train`` with a tiny model and one step; the start of many
pairs is compared with that of 1,000. ORPO_BENCH_TOKENIZER as in benchmarks.preparation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine, peak_memory_gb
from benchmarks.preparation import LENGTHS, WORDS, make_orpo_trainer, prepare_pairs, to_messages, tokenizer
from orpo_cli.library_messages import silence_libraries

FEW = 1_000
SHARDS = 8
BATCH = 8  # pairs of a step
STEPS = 200  # measured, of loading
STAGE_PAIRS = 10_000
TRL_PAIRS = 5_000
WARM_SECONDS = 65  # after the last change of a file until its digest is remembered


def write_pairs(folder: Path, pairs: int, compress: bool) -> Path:
    """``pairs`` conversations as JSON Lines in ``SHARDS`` files, each also compressed where ``compress`` is set."""
    rng, path = random.Random(0), folder / f"{pairs}"
    path.mkdir()

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    for shard in range(SHARDS):
        name = f"pairs-{shard:02}.jsonl"
        with (path / name).open("w", encoding="utf-8") as file:
            for _ in range(pairs // SHARDS):
                row = {"prompt": [{"role": "user", "content": text(10, 40)}]}
                row |= {side: [{"role": "assistant", "content": text(8, 60)}] for side in ("chosen", "rejected")}
                file.write(json.dumps(row) + "\n")
        if not compress:
            continue
        with (path / name).open("rb") as plain, gzip.open(path / f"{name}.gz", "wb", compresslevel=1) as compressed:
            compressed.writelines(plain)
    return path


def prepare(files: str) -> dict[str, Any]:
    """Preparation of ``files``; from the cache where it has them."""
    import datasets  # noqa: F401 - its import is not measured

    import orpo_cli.data.prepare  # noqa: F401

    loaded, before = tokenizer(), peak_memory_gb()
    began, seconds = time.process_time(), time.perf_counter()
    prepared = prepare_pairs(files, loaded)
    return {
        "processor": time.process_time() - began, "seconds": time.perf_counter() - seconds, "pairs": len(prepared.train),
        "peak_gb": peak_memory_gb(), "grown_gb": peak_memory_gb() - before,
    }  # fmt: skip


def stages(files: str) -> dict[str, float]:
    """Processor microseconds a pair of each stage of the preparation, one after the other."""
    from functools import partial

    from orpo_cli.data.formats.detect import detect_format
    from orpo_cli.data.pair_encoder import PairEncoder
    from orpo_cli.data.pair_writer import PairWriter
    from orpo_cli.data.report import SourceReport
    from orpo_cli.data.source_reader import SourceReader
    from orpo_cli.data.sources.source import open_source
    from orpo_cli.data.table import PairTable
    from orpo_cli.recipe.schema import DatasetSection

    section = DatasetSection.model_validate({"train": {"path": files}})
    encoder, source, found = PairEncoder(tokenizer()), section.train[0], {}
    reader = SourceReader(section, encoder, LENGTHS["max_length"], LENGTHS["max_prompt_length"], lambda _: None)
    report = SourceReport("train", files, files, None, "train")

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        found[name] = 1e6 * (time.process_time() - began) / STAGE_PAIRS
        return result

    def batches(items: list[Any]) -> Iterator[list[Any]]:
        return (items[at : at + 256] for at in range(0, len(items), 256))

    with open_source(source, "pairs", lambda _: None) as opened, tempfile.TemporaryDirectory() as folder:
        rows = timed("reading", lambda: list(islice(opened.splits["train"](), STAGE_PAIRS)))
        format_ = detect_format([row.value for row in rows[:100]])
        parse = partial(reader._parse_rows, reader._readable_rows(iter(rows), format_, report), format_, source, report)
        pairs = timed("format and filters", lambda: list(parse()))
        texts = timed("chat template", lambda: [encoder.render([pair for _, pair in each]) for each in batches(pairs)])
        tokens = timed("tokenizer", lambda: [encoder.tokenize(each) for each in texts])
        rendered = [
            (*pair, text)
            for each, batch in zip(batches(pairs), texts, strict=True)
            for pair, text in zip(each, batch, strict=True)
        ]

        def write() -> None:
            with PairWriter(Path(folder) / "pairs.arrow", 42) as writer:
                for each, ids in zip(batches(rendered), tokens, strict=True):
                    writer.write(reader._truncate_batch(each, ids, report))

        timed("truncation and writing", write)
        table = PairTable([Path(folder) / "pairs.arrow"])
        timed("duplicates, lengths, fingerprint", lambda: (table.length_stats(), table.fingerprint(), table.dataset()))
    return found


def trl(files: str) -> dict[str, Any]:
    """The three passes of TRL's ORPOTrainer over the same messages."""
    loaded = tokenizer()
    rows = to_messages(prepare_pairs(files, loaded))
    began = time.process_time()
    make_orpo_trainer(rows, loaded, 1)
    return {"processor": time.process_time() - began, "pairs": len(rows)}


def steps(files: str) -> dict[str, Any]:
    """Order of an epoch, loading of a step, and the first step after half an epoch is left out, as the Trainer does it."""
    from accelerate.data_loader import skip_first_batches
    from torch.utils.data import DataLoader, Dataset

    from orpo_cli.training.engine.packed_step import collate_pairs
    from orpo_cli.training.padded_batch import TokenizedDataset
    from orpo_cli.training.step_sampler import StepLayout, StepSampler, epoch_order

    prepared = prepare_pairs(files, tokenizer())
    pairs = TokenizedDataset(prepared.train).dataset
    read = 0

    class Counted(Dataset[Any]):
        def __len__(self) -> int:
            return len(pairs)

        def __getitems__(self, indices: list[int]) -> Any:
            nonlocal read
            read += len(indices)
            return pairs.__getitems__(indices)

    layout = StepLayout(BATCH, BATCH, packed=True)
    sampler = StepSampler(len(pairs), None, layout, epoch_order(pairs, "random", 42, BATCH))
    before = peak_memory_gb()
    began = time.process_time()
    batches = iter(sampler)
    next(batches)
    order = time.process_time() - began
    loader = DataLoader(Counted(), batch_sampler=sampler, collate_fn=collate_pairs)
    loading = iter(loader)
    next(loading)
    began = time.process_time()
    count = sum(1 for _ in islice(loading, STEPS))
    step, read = (time.process_time() - began) / max(1, count), 0
    sampler.skipped = len(sampler) // 2
    resumed = skip_first_batches(loader, len(sampler) // 2)
    began = time.process_time()
    next(iter(resumed))
    return {
        "order": order, "step_ms": 1e3 * step, "resume": time.process_time() - began, "read_by_resume": read,
        "grown_gb": peak_memory_gb() - before,
    }  # fmt: skip


def train(files: str, folder: Path, name: str) -> dict[str, float]:
    """Processor seconds and peak memory of ``orpo train`` for one step."""
    recipe = {
        "output_dir": str(folder / name), "model": {"model_name_or_path": str(_tiny_model(folder))}, "dataset": {"train": {"path": files}},
        "training": {"max_steps": 1, "per_device_train_batch_size": BATCH, "max_length": LENGTHS["max_length"], "save_strategy": "no"},
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "orpo_cli", "train", str(folder / f"{name}.yaml"), "--quiet"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    metrics = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(each.get("step") == 1 for each in metrics)
    return {"processor": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def _tiny_model(folder: Path) -> Path:
    path = folder / "model"
    if not path.exists():
        from transformers import LlamaConfig, LlamaForCausalLM

        loaded = tokenizer()
        config = LlamaConfig(
            vocab_size=len(loaded), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        LlamaForCausalLM(config).save_pretrained(path)
        loaded.save_pretrained(path)
    return path


def run_side(side: str, files: str, **variables: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large_data", "--side", side, "--files", files]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **variables})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(pairs: int, folder: Path, compress: bool) -> None:
    """Print the tables."""
    few, many = (write_pairs(folder, count, compress) for count in (FEW, pairs))
    plain = f"{many}/*.jsonl"
    one = f"{many}/pairs-00.jsonl"
    run_side("prepare", f"{few}/*.jsonl")  # reads the tokenizer of a GGUF file, which takes more memory than the pairs
    prepared = run_side("prepare", plain)
    from_gzip = run_side("prepare", f"{many}/*.jsonl.gz", ORPO_PAIR_CACHE="0") if compress else None
    time.sleep(WARM_SECONDS)  # TRL's part takes long enough otherwise
    first, warm = run_side("prepare", plain), run_side("prepare", plain)
    print(
        f"{pairs:,} synthetic pairs in {SHARDS} files, {describe_machine()}. Seconds are processor seconds of all threads.\n"
    )
    print("| | seconds | peak GB | of it while preparing |\n| --- | --- | --- | --- |")
    for label, figures in {
        "preparation, JSON Lines": prepared, "preparation, gzip": from_gzip, "from the cache, for the first time": first,
        "from the cache, again": warm,
    }.items():  # fmt: skip
        if figures is None:
            continue
        print(
            f"| {label} | {figures['processor']:.1f} | {figures['peak_gb']:.2f} | {figures['grown_gb']:.2f} |",
            flush=True,
        )
    starts = {}
    for name, files in {"few": f"{few}/*.jsonl", "many": plain}.items():
        for attempt in ("cold", "warm"):
            starts[name, attempt] = train(files, folder, f"{name}-{attempt}")
    print("\n`orpo train` with one step, from the cache:\n\n| pairs | seconds | peak GB |\n| --- | --- | --- |")
    for name, count in {"few": FEW, "many": pairs}.items():
        print(f"| {count:,} | {starts[name, 'warm']['processor']:.1f} | {starts[name, 'warm']['peak_gb']:.2f} |")
    found = run_side("steps", plain)
    print(f"\nThe order of an epoch takes {found['order']:.3f} s, loading {BATCH} pairs {found['step_ms']:.2f} ms, and the first step after "
          f"half an epoch {found['resume']:.3f} s, in which {found['read_by_resume']} pairs are read; all together "
          f"{found['grown_gb']:.2f} GB.\n")  # fmt: skip
    sample = folder / "trl.jsonl"
    with Path(one).open("rb") as file:
        sample.write_bytes(b"".join(islice(file, TRL_PAIRS)))
    ours, theirs = run_side("prepare", str(sample), ORPO_PAIR_CACHE="0"), run_side("trl", str(sample))
    rates = {name: each["pairs"] / each["processor"] for name, each in {"ours": ours, "trl": theirs}.items()}
    print(f"Pairs a processor second, {ours['pairs']:,} of these pairs: orpo-cli {rates['ours']:,.0f}, TRL {rates['trl']:,.0f}, ratio "
          f"**{rates['ours'] / rates['trl']:.1f}**.\n")  # fmt: skip
    print("| stage | processor µs a pair |\n| --- | --- |")
    for stage, microseconds in run_side("stages", plain).items():
        print(f"| {stage} | {microseconds:.0f} |")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the data is written; default: $TMPDIR")
    parser.add_argument(
        "--side",
        choices=(sides := {"prepare": prepare, "stages": stages, "trl": trl, "steps": steps}),
        help=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--gzip", action=argparse.BooleanOptionalAction, default=True, help="prepare compressed files, too"
    )
    parser.add_argument("--files", help=argparse.SUPPRESS)
    options = parser.parse_args()
    silence_libraries()
    if options.side:
        print(json.dumps(sides[options.side](options.files)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ |= {"ORPO_CACHE": f"{folder}/cache", "ORPO_PAIR_CACHE": "1", "HF_HUB_OFFLINE": "1"}
        compare(options.pairs, Path(folder), options.gzip)


if __name__ == "__main__":
    main()
