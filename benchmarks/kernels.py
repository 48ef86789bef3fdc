"""Kernels on a GPU: attention and head alone in bfloat16, forward and backward, against TRL's path for the same pairs.

    python -m benchmarks.kernels

Attention of one layer of Llama 3.1 8B (32 heads, 8 for keys, 128 wide): pairs packed into one row with shared prompts, by flash
attention for sequences of various lengths and by FlexAttention, against both sequences of every pair padded to the longest.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.paired import describe_machine

HEADS, KEY_HEADS, SIZE = 32, 8, 128
HIDDEN, ROWS = 4096, 8192  # of the head: predictions
VOCAB_SIZES = (32_768, 131_072, 262_144)


def measure(compute: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """Median milliseconds, and peak GB above the memory in use before."""
    import torch

    compute()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    spans = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        compute()
        end.record()
        torch.cuda.synchronize()
        spans.append(begin.elapsed_time(end))
    return statistics.median(spans), (torch.cuda.max_memory_allocated() - before) / 1e9


def attention(count: int) -> None:
    """Print the row of the table for ``count`` pairs."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.masking_utils import causal_mask_function

    from orpo_cli.training.engine.packed_attention_cuda import CudaMask, flash_attention
    from orpo_cli.training.engine.packing import TokenPair, pack

    draw = random.Random(count)
    sizes = [(draw.randint(50, 700), draw.randint(50, 500), draw.randint(50, 500)) for _ in range(count)]
    pairs = [
        TokenPair("", torch.full((prompt,), 0), torch.full((chosen,), 1), torch.full((rejected,), 2))
        for prompt, chosen, rejected in sizes
    ]
    batch = pack(pairs, True).to(torch.device("cuda"))
    mask = CudaMask(batch, causal_mask_function, None)
    module = torch.nn.Module().train()

    def inputs(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        def states(heads: int) -> torch.Tensor:
            return torch.randn(rows, heads, tokens, SIZE, device="cuda", dtype=torch.bfloat16, requires_grad=True)

        return states(HEADS), states(KEY_HEADS), states(KEY_HEADS)

    packed = inputs(1, batch.input_ids.shape[1])
    longest = max(prompt + max(answers) for prompt, *answers in sizes)
    padded = inputs(2 * count, longest)
    lengths = torch.tensor([prompt + answer for prompt, *answers in sizes for answer in answers], device="cuda")
    seen = (torch.arange(longest, device="cuda")[None] < lengths[:, None])[:, None, None, :]
    visible = seen & torch.ones(longest, longest, dtype=torch.bool, device="cuda").tril()

    def backward(out: torch.Tensor) -> None:
        out.sum().backward()  # type: ignore[no-untyped-call]

    variants: dict[str, Callable[[], Any]] = {
        "packed, flash": lambda: backward(flash_attention(*packed, mask.varlen_inputs, 0, None)),
        "packed, flex": lambda: backward(flex_attention_forward(module, *packed, mask.block_mask)[0]),
        "padded, flash": lambda: backward(scaled_dot_product_attention(*padded, is_causal=True, enable_gqa=True)),
        "padded, with its mask": lambda: backward(scaled_dot_product_attention(*padded, visible, enable_gqa=True)),
    }
    found = {name: measure(compute) for name, compute in variants.items()}
    ours = found["packed, flash"][0]
    cells = [f"{count}", f"{batch.input_ids.shape[1]:,}", f"{2 * count * longest:,}"]
    cells += [f"{milliseconds:.2f} ({milliseconds / ours:.1f})" for milliseconds, _ in found.values()]
    print(f"| {' | '.join(cells)} |", flush=True)


def head(vocab_size: int) -> None:
    """Print the row of the table for a vocabulary."""
    import torch
    from torch.nn.functional import cross_entropy

    from orpo_cli.training.engine.lm_head import LinearLogProbs, LogitTransform

    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    hidden = torch.randn(ROWS, HIDDEN, **options, requires_grad=True)
    weight = torch.randn(vocab_size, HIDDEN, **options) * 0.02
    targets = torch.randint(vocab_size, (ROWS,), device="cuda")

    def tiled_head() -> None:
        LinearLogProbs.apply(hidden, weight, None, targets, LogitTransform()).sum().backward()  # type: ignore[no-untyped-call]

    def full_head() -> None:
        cross_entropy((hidden @ weight.T).float(), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]

    tiled, full = measure(tiled_head), measure(full_head)
    print(
        f"| {vocab_size:,} | {full[0]:.1f} | {full[1]:.2f} | {tiled[0]:.1f} | {tiled[1]:.2f} | "
        f"**{full[0] / tiled[0]:.2f}** | **{tiled[1] / full[1]:.3f}** |",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(
        f"Attention of one layer, {describe_machine()}; milliseconds of forward and backward pass, and the ratio to orpo-cli.\n"
    )
    names = ("packed, flash (orpo-cli)", "packed, FlexAttention", "padded, flash", "padded, with attention mask (TRL)")
    print(f"| pairs | tokens packed | tokens padded | {' | '.join(names)} |\n| {' | '.join(['---'] * 7)} |")
    for count in (4, 8, 16):
        attention(count)
    print(
        f"\nThe language model head alone, {ROWS:,} predictions, hidden size {HIDDEN:,}, forward and backward pass.\n"
    )
    print(
        "| vocabulary size | full logits, ms | full logits, GB | orpo-cli, ms | orpo-cli, GB | time ratio | memory ratio |"
    )
    print(f"| {' | '.join(['---'] * 7)} |")
    for vocab_size in VOCAB_SIZES:
        head(vocab_size)


if __name__ == "__main__":
    main()
