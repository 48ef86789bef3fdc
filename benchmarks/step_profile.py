"""Profile of training steps: operators, kernel launches and device time a step, from torch.profiler; on a CPU the share of each part.

python -m benchmarks.training FILE:4 --side ours --profile FOLDER       writes profile.json and profile-tables.txt
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

PROFILED_STEPS = 2  # the last ones of a run; the one before them is the profiler's warm-up
# Parts of a step, by the names of the functions that call an operator, the innermost first.
PARTS = {
    "head": ("LinearLogProbs",),
    "attention": ("Attention", "scaled_dot_product"),
    "norms, gates and rotary embedding": ("RmsNormFunction", "GatedActivation", "RotaryEmbedding", "layer_norm"),
    "optimizer": ("Optimizer.",),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::_linear_pointwise")
OPERATORS = ("aten::", "mkldnn::")
BUSY = 0.1  # of all operators' time: a thread with that much computes a part of each step
LARGEST_RANK = 64  # of the benchmark's adapters: a product with such a small matrix is an adapter's


def profile_last_steps(folder: Path, steps: int) -> Any:
    """Trainer callback that profiles the last ``PROFILED_STEPS`` of ``steps`` steps, and writes the results to ``folder``."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule
    from transformers import TrainerCallback

    gpu = torch.cuda.is_available()
    profiler: Any = profile(
        activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu],
        schedule=schedule(wait=steps - PROFILED_STEPS - 1, warmup=1, active=PROFILED_STEPS),
        record_shapes=not gpu,
    )

    class Profiler(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            profiler.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            profiler.step()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            profiler.stop()
            write_profile(profiler.key_averages(), folder, {} if gpu else shares_of_parts(profiler.events()))

    return Profiler()


def shares_of_parts(events: Any) -> dict[str, float]:
    """Share of the steps' time of each part: a part of ``PARTS``, products, other operators, and the rest."""
    seconds: defaultdict[str, float] = defaultdict(float)
    of_threads: defaultdict[int, float] = defaultdict(float)
    steps = sum(each.cpu_time_total for each in events if each.name.startswith("ProfilerStep"))
    for event in events:
        if event.name.startswith(OPERATORS):
            seconds[part_of_step(event)] += event.self_cpu_time_total
            of_threads[event.thread] += event.self_cpu_time_total
    total = sum(seconds.values())
    steps *= sum(each > BUSY * total for each in of_threads.values())  # step threads: each has its own micro-batch
    shares = {name: round(time / steps, 4) for name, time in sorted(seconds.items(), key=lambda each: -each[1])}
    return shares | {"Python, autograd and waiting": round(1 - total / steps, 4)}


def part_of_step(event: Any) -> str:
    """The part of an operator."""
    caller = event
    while caller is not None:
        for part, names in PARTS.items():
            if any(name in caller.name for name in names):
                return part
        caller = caller.cpu_parent
    if event.name in PRODUCTS:
        sizes = [size for shape in event.input_shapes for size in shape]
        return "products with adapters" if min(sizes) <= LARGEST_RANK else "products with weights"
    return "other operators"


def write_profile(events: Any, folder: Path, shares: dict[str, float]) -> None:
    """Write profile.json, the figures of a step and the ``shares`` of its parts, and profile-tables.txt, the profiler's tables."""
    steps = [each for each in events if not each.key.startswith("ProfilerStep")]
    cpu = [each for each in steps if each.device_type.name == "CPU"]
    kernels = [each for each in steps if each.device_type.name != "CPU"]

    def a_step(chosen: Any, figure: str, scale: float = 1.0) -> float:
        return float(round(sum(getattr(each, figure) for each in chosen) * scale / PROFILED_STEPS, 3))

    def largest(chosen: Any, figure: str, scale: float = 1e-3) -> dict[str, float]:
        ordered = sorted(chosen, key=lambda each: -getattr(each, figure))[:25]
        return {each.key[:100]: a_step([each], figure, scale) for each in ordered}

    document: dict[str, Any] = {
        "shares": shares,
        "operators": a_step([each for each in cpu if each.key.startswith(("aten::", "bitsandbytes::"))], "count"),
        "kernel_launches": a_step([each for each in cpu if "LaunchKernel" in each.key], "count"),
        "device_ms": a_step(kernels, "self_device_time_total", 1e-3),
        "device_ms_of": largest(kernels, "self_device_time_total"),
        "cpu_ms_of": largest(cpu, "self_cpu_time_total"),
        "calls_of": largest(cpu, "count", 1.0),
    }
    (folder / "profile.json").write_text(json.dumps(document, indent=1) + "\n")
    tables = [
        events.table(sort_by=order, row_limit=40, max_name_column_width=80)
        for order in ("self_cpu_time_total", "self_cuda_time_total")
    ]
    (folder / "profile-tables.txt").write_text("\n".join(tables))
