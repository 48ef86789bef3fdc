"""Measurements of training steps in one process: time, memory, FLOP of a token and speed of matrix products."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def step_timer() -> Any:
    """Trainer callback that records the seconds of each step, and the tokens that the engine computed in it.

    With ``measured_dtype`` it also records the speed of matrix products after each of the first ``measured_steps`` steps, since
    other load changes both alike.
    """
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds: list[float]
        busy: list[float]  # of processor time, which other processes on the machine change less
        tokens: list[int]
        attended: list[int]  # pairs of a token and one that it attends to
        peaks: list[float]  # FLOP/s
        measured_dtype: Any = None
        measured_steps = 0
        packed = packed_attended = 0

        def count_tokens_of(self, engine: Any) -> None:
            pack_groups = engine.pack_groups

            def counting(pairs: Any, groups: Any) -> Any:
                batches = pack_groups(pairs, groups)
                self.packed += sum(batch.input_ids.numel() for batch in batches)
                self.packed_attended += sum(int((batch.position_ids + 1).sum()) for batch in batches)
                return batches

            engine.pack_groups = counting

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.seconds, self.busy, self.tokens, self.attended, self.peaks = [], [], [], [], []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.began[0])
            self.busy.append(time.process_time() - self.began[1])
            self.tokens.append(self.packed)
            self.attended.append(self.packed_attended)
            self.packed = self.packed_attended = 0
            if len(self.seconds) <= self.measured_steps:
                self.peaks.append(measure_peak_flops(self.measured_dtype))

    return Clock()


def device_memory_gb() -> float | None:
    """GB in use on the device, with the allocator's reserve and the CUDA context; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def load_weights(model: Any) -> None:
    """Read all weights once, so that those of a memory-mapped file are loaded before the first step."""
    for parameter in model.parameters():
        parameter.detach().sum()


def reset_peak_memory() -> float:
    """Reset the peak of memory; returns the GB in use now (device memory where there is a GPU)."""
    import psutil
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e9
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    return float(psutil.Process().memory_info().rss) / 1e9


def peak_gb() -> float:
    """Peak of memory since ``reset_peak_memory``, in GB."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e9


def measure_peak_flops(dtype: Any, seconds: float = 0.5) -> float:
    """FLOP/s of this machine in products as large as a step's: rows of tokens times a square weight."""
    import torch

    gpu = torch.cuda.is_available()
    rows, width = (8192, 8192) if gpu else (1024, 2048)
    tensor_options = {"dtype": dtype, "device": "cuda" if gpu else "cpu"}
    left, right = torch.randn(rows, width, **tensor_options), torch.randn(width, width, **tensor_options)
    best = 0.0
    for _ in range(5):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 5:
            left @ right
            count += 1
            if gpu:
                torch.cuda.synchronize()
        best = max(best, 2 * count * left.numel() * right.shape[1] / (time.perf_counter() - began))
    return best


def flops_per_token(model: Any, adapter_rank: int) -> int:
    """FLOP of a token in forward and backward pass: two products with every frozen matrix, three with a trained one.

    The products of the adapter are left out, and those of attention counted by ``attention_flops``: a lower bound.
    """
    import torch

    matrices = [module for module in model.modules() if type(module).__name__ in ("Linear", "Linear4bit")]
    linear = [each for each in matrices if isinstance(each, torch.nn.Linear)]
    base = [each for each in linear if min(each.in_features, each.out_features) > adapter_rank]
    return sum((6 if each.weight.requires_grad else 4) * each.in_features * each.out_features for each in base)


def attention_flops(config: Any) -> int:
    """FLOP of one token that attends to one other, in all layers: two products forward and four backward, for each query head.

    A product that the backward pass computes a second time is not counted. For models without a sliding window.
    """
    config = config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6 * 2 * int(config.num_hidden_layers * config.num_attention_heads * head_dim)
