"""Profile of training steps: operators, kernel launches and device time a step, from torch.profiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROFILED_STEPS = 2  # the last ones of a run; the one before them is the profiler's warm-up


def profile_last_steps(folder: Path, steps: int) -> Any:
    """Trainer callback that profiles the last ``PROFILED_STEPS`` of ``steps`` steps, and writes the results to ``folder``."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule
    from transformers import TrainerCallback

    gpu = torch.cuda.is_available()
    profiler = profile(
        activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu],
        schedule=schedule(wait=steps - PROFILED_STEPS - 1, warmup=1, active=PROFILED_STEPS),
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
            write_profile(profiler.key_averages(), folder)

    return Profiler()


def write_profile(events: Any, folder: Path) -> None:
    """Write profile.json, the figures of a step, and profile-tables.txt, the profiler's tables."""
    from torch.autograd import DeviceType

    steps = [each for each in events if not each.key.startswith("ProfilerStep")]
    cpu = [each for each in steps if each.device_type == DeviceType.CPU]
    kernels = [each for each in steps if each.device_type != DeviceType.CPU]

    def a_step(chosen: Any, figure: str, scale: float = 1.0) -> float:
        return float(round(sum(getattr(each, figure) for each in chosen) * scale / PROFILED_STEPS, 3))

    def largest(chosen: Any, figure: str, scale: float = 1e-3) -> dict[str, float]:
        ordered = sorted(chosen, key=lambda each: -getattr(each, figure))[:25]
        return {each.key[:100]: a_step([each], figure, scale) for each in ordered}

    document = {
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
