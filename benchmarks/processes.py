"""Processes: two of one thread each against one of one thread, on the same steps. Pairs per second.

    python -m benchmarks.processes [FILE ...] [--pairs 8] [--steps 5] [--rounds 3] [--model smollm2-135m]

Without a file, synthetic conversations. Both train the same LoRA adapter (r 16, all linear layers) in float32 on the same pairs of each step, with gloo between the processes.
Each process is bound to a CPU of its own. The sides run alternately; the first step, in which libraries warm up, is left out.
Two processes share caches and memory: so two that train apart, each all pairs, show the most that the machine can give.
``--model`` is an architecture of ``benchmarks.models`` with random weights, or ``tiny``, to try the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import ARCHITECTURES, random_model
from benchmarks.paired import describe_machine, median, run_alternating
from benchmarks.preparation import tokenizer, write_synthetic_pairs
from orpo_cli.library_messages import silence_libraries

LENGTHS = {"max_length": 1024, "max_prompt_length": 512}
TINY = {
    **ARCHITECTURES["smollm2-135m"],
    "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
CPU = "ORPO_BENCH_CPU"  # number of the CPU of a process that trains apart
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def train(file: str, model: str, pairs: int, steps: int) -> dict[str, Any]:
    """Train in this process, one of those of torchrun or the only one."""
    import torch

    from benchmarks.step_measurement import step_timer
    from orpo_cli.data.prepare import prepare
    from orpo_cli.machine import probe
    from orpo_cli.model.onednn import use_onednn
    from orpo_cli.planning.resolve import resolve
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.training.allocator import keep_freed_memory, reserve_small_chunks
    from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ.get(CPU, rank))]})
    torch.set_num_threads(1)
    keep_freed_memory()
    reserve_small_chunks()
    use_onednn()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps({**(ARCHITECTURES | {"tiny": TINY})[model], "dtype": "float32"}))
        recipe = {
            "model": {"model_name_or_path": temporary, "dtype": "float32"},
            "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "dataset": {"train": {"path": file}, "max_prompt_length": LENGTHS["max_prompt_length"]},
            "training": {
                "max_length": LENGTHS["max_length"], "max_steps": steps, "per_device_train_batch_size": pairs // processes,
                "gradient_accumulation_steps": 1, "save_strategy": "no", "eval_strategy": "no", "use_cpu": True,
                "gradient_checkpointing": False, "seed": 42,
            },
            "engine": {"fast_path": "required", "max_tokens_per_microbatch": 4096},
            "launch": {"num_processes": processes},
        }  # fmt: skip
        (folder / "recipe.json").write_text(json.dumps(recipe))
        plan, loaded = resolve(load_recipe(str(folder / "recipe.json")), probe()), tokenizer()
        data = prepare(plan.dataset, loaded, note=lambda _: None, **LENGTHS)
        inputs = TrainingInputs(random_model(folder, torch.float32, "cpu"), loaded, data.train)
        clock = step_timer()
        trainer = make_trainer(plan, folder / "checkpoints", inputs, [clock], lambda _: None)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"pairs_per_second": pairs * (steps - 1) / sum(clock.seconds[1:]), "losses": losses}


def train_apart(arguments: Sequence[str]) -> dict[str, Any]:
    """Run two processes that train at the same time and do not know each other: their pairs per second together."""
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, CPU: str(cpu)}
        )
        for cpu in range(2)
    ]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {"pairs_per_second": sum(each["pairs_per_second"] for each in found)}


def compare(file: str, model: str, pairs: int, steps: int, rounds: int) -> str:
    """A row of the table."""
    run = ["benchmarks.processes", file, "--model", model, "--pairs", str(pairs), "--steps", str(steps), "--side"]
    results = run_alternating(
        {
            "one": ["-m", *run],
            "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", *run],
            "apart": ["-m", *run, "--apart"],
        },
        rounds,
        variables=dict.fromkeys(("one", "two", "apart"), ONE_THREAD),
    )
    speeds = {name: [each["pairs_per_second"] for each in found] for name, found in results.items()}
    one, two = (median(results[name], "pairs_per_second") for name in ("one", "two"))
    ratios, most = (
        statistics.median(b / a for a, b in zip(speeds["one"], speeds[name], strict=True)) for name in ("two", "apart")
    )
    first, second = (results[name][0]["losses"] for name in ("one", "two"))
    difference = max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))
    cells = [Path(file).name, model, str(pairs), f"{one:.3f}", f"{two:.3f}", f"**{ratios:.2f}**", f"{most:.2f}"]
    return f"| {' | '.join(cells)} | {difference:.0e} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the alternating sides, or with ``--side`` one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of a step, of all processes")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", action="store_true", help="train in this process and print the figures")
    parser.add_argument("--apart", action="store_true", help="with --side: two processes that do not know each other")
    options = parser.parse_args(arguments)
    silence_libraries()
    if options.apart:
        print(
            json.dumps(
                train_apart(["-m", "benchmarks.processes", *[each for each in sys.argv[1:] if each != "--apart"]])
            )
        )
        return
    if options.side:
        found = train(options.files[0], options.model, options.pairs, options.steps)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found), flush=True)
        sys.stdout.flush()
        if "RANK" in os.environ:
            os._exit(0)  # gloo's threads may still run, and would abort the process
        return
    print(
        f"Two processes of one thread each against one of one thread, {describe_machine()}; medians of {options.rounds} alternating "
        f"runs of {options.steps} steps\n\n"
        "| file | model | pairs per step | one process, pairs/s | two processes, pairs/s | ratio | ratio of two apart | loss difference |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or [str(write_synthetic_pairs(Path(folder) / "synthetic.jsonl", 200))]:
            print(compare(file, options.model, options.pairs, options.steps, options.rounds), flush=True)


if __name__ == "__main__":
    main()
