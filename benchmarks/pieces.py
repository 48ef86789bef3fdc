"""On a GPU: attention and head alone, in bfloat16, forward and backward, against what TRL's path does for the same pairs.

    python -m benchmarks.pieces

Attention of one layer of Llama 3.1 8B (32 heads, 8 for keys, 128 wide): pairs packed into one row with shared prompts, by flash
attention for sequences of various lengths and by FlexAttention, against both sequences of every pair padded to the longest.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.paired import machine

HEADS, KEY_HEADS, SIZE = 32, 8, 128
HIDDEN, ROWS = 4096, 8192  # of the head: predictions
WORDS = (32_768, 131_072, 262_144)


def measured(compute: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """Median milliseconds, and peak GB above what was held."""
    import torch

    compute()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    spans = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        compute()
        end.record()
        torch.cuda.synchronize()
        spans.append(begin.elapsed_time(end))
    return statistics.median(spans), (torch.cuda.max_memory_allocated() - held) / 1e9


def attention(count: int) -> None:
    """A row of the table for ``count`` pairs."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.masking_utils import causal_mask_function

    from orpo_cli.training.engine.packed_attention_cuda import CudaMask, flash_attention
    from orpo_cli.training.engine.packing import TokenPair, pack

    draw = random.Random(count)
    sizes = [(draw.randint(50, 700), draw.randint(50, 500), draw.randint(50, 500)) for _ in range(count)]
    pairs = [TokenPair("", *(torch.full((size,), value) for value, size in enumerate(parts))) for parts in sizes]
    batch = pack(pairs, True).to(torch.device("cuda"))
    mask = CudaMask(batch, causal_mask_function, None)
    module = torch.nn.Module().train()

    def inputs(rows: int, tokens: int) -> list[torch.Tensor]:
        shapes = [(rows, heads, tokens, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        return [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]

    packed = inputs(1, batch.input_ids.shape[1])
    longest = max(prompt + max(answers) for prompt, *answers in sizes)
    padded = inputs(2 * count, longest)
    lengths = torch.tensor([prompt + answer for prompt, *answers in sizes for answer in answers], device="cuda")
    seen = (torch.arange(longest, device="cuda")[None] < lengths[:, None])[:, None, None, :]
    visible = seen & torch.ones(longest, longest, dtype=torch.bool, device="cuda").tril()

    def both_ways(out: torch.Tensor) -> None:
        out.sum().backward()

    ways: dict[str, Callable[[], Any]] = {
        "packed, flash": lambda: both_ways(flash_attention(*packed, mask.varlen_inputs, 0, None)),
        "packed, flex": lambda: both_ways(flex_attention_forward(module, *packed, mask.block_mask)[0]),
        "padded, flash": lambda: both_ways(scaled_dot_product_attention(*padded, is_causal=True, enable_gqa=True)),
        "padded, with its mask": lambda: both_ways(scaled_dot_product_attention(*padded, visible, enable_gqa=True)),
    }
    found = {name: measured(compute) for name, compute in ways.items()}
    ours = found["packed, flash"][0]
    cells = [f"{count}", f"{batch.input_ids.shape[1]:,}", f"{2 * count * longest:,}"]
    cells += [f"{milliseconds:.2f} ({milliseconds / ours:.1f})" for milliseconds, _ in found.values()]
    print(f"| {' | '.join(cells)} |", flush=True)


def head(words: int) -> None:
    """A row of the table for a vocabulary."""
    import torch
    from torch.nn.functional import cross_entropy

    from orpo_cli.training.engine.lm_head import LinearLogProbs, LogitTransform

    place: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
    hidden = torch.randn(ROWS, HIDDEN, **place, requires_grad=True)
    weight = torch.randn(words, HIDDEN, **place) * 0.02
    targets = torch.randint(words, (ROWS,), device="cuda")

    def ours() -> None:
        LinearLogProbs.apply(hidden, weight, None, targets, LogitTransform()).sum().backward()  # type: ignore[no-untyped-call]

    def full() -> None:
        cross_entropy((hidden @ weight.T).float(), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]

    mine, theirs = measured(ours), measured(full)
    print(
        f"| {words:,} | {theirs[0]:.1f} | {theirs[1]:.2f} | {mine[0]:.1f} | {mine[1]:.2f} | "
        f"**{theirs[0] / mine[0]:.2f}** | **{mine[1] / theirs[1]:.3f}** |",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(
        f"Attention of one layer, {machine()}; milliseconds of forward and backward pass, and the ratio to orpo-cli.\n"
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
    for words in WORDS:
        head(words)


if __name__ == "__main__":
    main()
