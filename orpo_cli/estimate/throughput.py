"""Throughput estimate: tokens and seconds of an optimizer step."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.child_process import run_child
from orpo_cli.estimate.batching import pairs_of_process
from orpo_cli.estimate.memory import EstimateInputs, uses_checkpointing
from orpo_cli.machine import Machine, usable_cpus
from orpo_cli.planning.plan import Plan

# Dense bfloat16 (T4 and V100: float16) matrix products by the makers' data sheets, in TFLOP/s; the first name that is in the
# name of the device counts, but not as the start of a longer number (A40 in RTX A4000), nor that of a laptop GPU, which is slower.
TFLOPS = (
    ("B200", 2250), ("H200", 989), ("H100 PCIe", 756), ("H100", 989), ("GH200", 989), ("A100", 312), ("L40S", 362),
    ("L40", 181), ("L4", 121), ("A40", 150), ("A10G", 70), ("A10", 125), ("A6000", 155), ("4090", 165), ("3090", 71), ("V100", 125), ("T4", 65),
)  # fmt: skip
# Measured fraction in training: 0.46 with micro-batches of 5,300 tokens and 0.24 with 2,000 (H200, Llama 3.1 8B, LoRA).
GPU_UTILIZATION = 0.4
# CPU seconds to launch the kernels of one layer and micro-batch, both passes: 0.007 with LoRA (H200), 0.010 with full weights and
# 0.013 with 4-bit weights (H100), for 4 pairs of 200 tokens.
LAUNCH_SECONDS = 0.01
# Measured fraction of the CPU's matrix products: 0.44 (ShareGPT) to 0.55 (HH-RLHF); attention and small operations take the rest.
CPU_UTILIZATION = 0.45


@dataclass(frozen=True)
class Throughput:
    """Estimate for a step: ``tokens`` that the model computes, seconds (None for an unknown device), ``how``: the basis."""

    pairs: int
    tokens: int
    flops: float
    seconds: float | None
    how: str


def estimate_throughput(plan: Plan, inputs: EstimateInputs) -> Throughput:
    """The estimate for a step of pairs of mean length."""
    facts, mean = inputs.facts, inputs.lengths.mean
    pairs = pairs_of_process(plan)
    each = mean.packed if plan.engine.fast_path != "off" else 2 * mean.longest
    tokens = pairs * each
    # a multiplication and an addition a weight
    passes = _passes(plan)
    squares = sum((mean.prompt + completion) ** 2 for completion in mean[1:])
    attention = 2 * facts.num_hidden_layers * facts.hidden_size * squares * pairs
    flops = passes * (2.0 * facts.active_parameters * tokens + attention)
    speed, how = _speed(plan, inputs.machine)
    if speed is None:
        return Throughput(pairs, tokens, flops, None, how)
    seconds, launching = flops / speed, 0.0
    if plan.device == "cuda":
        packed = -(-tokens // plan.engine.max_tokens_per_microbatch)
        parts = packed if plan.engine.fast_path != "off" else plan.training["gradient_accumulation_steps"]
        launching = LAUNCH_SECONDS * facts.num_hidden_layers * parts
    if launching > seconds:
        milliseconds = LAUNCH_SECONDS * 1000
        how = f"{milliseconds:.0f} ms a layer and micro-batch to launch it, which takes longer than computing it"
    return Throughput(pairs, tokens, flops, max(seconds, launching), how)


def evaluation_seconds(plan: Plan, inputs: EstimateInputs, step: Throughput, pairs: int) -> float | None:
    """Seconds of an evaluation of so many held-out pairs, of the mean length of the training pairs: forward alone, packed."""
    if step.seconds is None:
        return None
    mean = inputs.lengths.mean
    share = 1.0 if plan.engine.fast_path != "off" else mean.packed / (2 * mean.longest)
    return step.seconds / step.pairs / _passes(plan) * share * pairs / plan.launch.num_processes


def _passes(plan: Plan) -> int:
    """Passes through the weights: forward, for the gradient of the input, and of the weight if it is trained; forward again."""
    return 2 + (plan.lora is None) + uses_checkpointing(plan)


def _speed(plan: Plan, machine: Machine) -> tuple[float | None, str]:
    """FLOP/s in training, and the source of the number."""
    if plan.device == "cpu":
        measured = measure_matmul_flops()
        if measured is None:
            return None, "the speed of this processor cannot be measured"
        return (
            CPU_UTILIZATION * measured,
            f"{CPU_UTILIZATION:.0%} of this processor's matrix products, measured just now",
        )
    names = ((rf"{name}(?!\d| Laptop)", tflops) for name, tflops in TFLOPS)
    found = next((tflops for name, tflops in names if re.search(name, machine.device_name)), None)
    if found is None:
        return None, f"the speed of {machine.device_name} is not known here"
    return GPU_UTILIZATION * found * 1e12, f"{GPU_UTILIZATION:.0%} of {found} TFLOP/s that {machine.device_name} has"


def measure_matmul_flops() -> float | None:
    """FLOP/s of float32 matrix products on all threads of the training, where nothing else runs; None: it cannot be measured.

    The speed of one thread times their number: see ``matmul_speed``.
    """
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-P", str(Path(__file__).with_name("matmul_speed.py"))]
    environment = {**os.environ, **variables}
    environment.pop("OPENBLAS_CORETYPE", None)  # slower kernels for numpy, which the training does not use
    done = run_child(command, environment=environment)
    return float(done.stdout) * _training_threads() if done.returncode == 0 else None


def _training_threads() -> int:
    """Threads that torch uses by default: OMP_NUM_THREADS, or one for each core."""
    import psutil

    written = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(written) if written.isdigit() else psutil.cpu_count(logical=False)
    return min(usable_cpus(), threads or usable_cpus())
