"""Memory and time of a step against the size of the vocabulary, and the head alone against full logits.

    python -m benchmarks.vocabulary [--words 32768 131072 262144]

A random Llama of four layers with an adapter takes one step over the same synthetic pairs; only vocab_size differs. TRL's
path keeps the float32 logits of every token of both sequences, the packed step a tile of them. Peaks are above the loaded
model.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from types import SimpleNamespace
from typing import Any

from benchmarks.paired import describe_machine, median, run_alternating
from benchmarks.step_measurement import peak_gb, reset_peak_memory
from orpo_cli.library_messages import silence_libraries

VOCAB_SIZES = (32_768, 131_072, 262_144)
PAIRS, PROMPT, ANSWER = 4, 128, 160  # tokens
HIDDEN, LAYERS, ROWS = 576, 4, 2048  # rows: predictions of the head alone


def run_side(name: str, vocab_size: int) -> dict[str, Any]:
    """Measure one step, or the head alone, in this process."""
    import torch

    torch.manual_seed(0)  # glibc's default allocator returns freed memory, so the peak is that of live tensors
    return head(name, vocab_size) if name.startswith("head") else step(name, vocab_size)


def step(name: str, vocab_size: int) -> dict[str, Any]:
    """Measure forward and backward of the pairs by ``ours`` or ``trl``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.experimental.orpo import ORPOTrainer
    from trl.experimental.utils import DPODataCollatorWithPadding

    from orpo_cli.training.engine.packed_step import Engine
    from orpo_cli.training.engine.packing import TokenPair

    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=HIDDEN, intermediate_size=1536, num_hidden_layers=LAYERS, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, vocab_size) for _ in range(count)]

    pairs = [(ids(PROMPT), ids(ANSWER), ids(ANSWER)) for _ in range(PAIRS)]

    def packed_step() -> torch.Tensor:
        accelerator: Any = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
        engine = Engine(model.get_base_model(), accelerator.device, beta=0.1, loss_on_prompt=True, max_tokens=2048)
        token_pairs = [
            TokenPair("", torch.tensor(prompt), torch.tensor(chosen), torch.tensor(rejected))
            for prompt, chosen, rejected in pairs
        ]
        engine.start_step(token_pairs)
        (micro_batch,) = engine.micro_batches(token_pairs)
        with engine.patched_model(micro_batch):
            loss = engine.loss_share(model, micro_batch)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def trl_step() -> torch.Tensor:
        rows = []
        for prompt, chosen, rejected in pairs:
            row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
            for key, answer in (("chosen", chosen), ("rejected", rejected)):
                row[f"{key}_input_ids"] = prompt + answer
                row[f"{key}_attention_mask"] = [1] * len(prompt + answer)
                row[f"{key}_labels"] = [-100] * len(prompt) + answer
            rows.append(row)
        trainer = SimpleNamespace(
            is_encoder_decoder=False, aux_loss_enabled=False, padding_value=0, beta=0.1,
            accelerator=SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value),
            concatenated_inputs=ORPOTrainer.concatenated_inputs, get_batch_logps=ORPOTrainer.get_batch_logps,
        )  # fmt: skip
        for method in ("concatenated_forward", "odds_ratio_loss"):
            setattr(trainer, method, getattr(ORPOTrainer, method).__get__(trainer))
        batch = DPODataCollatorWithPadding(pad_token_id=0)(rows)
        loss: torch.Tensor = ORPOTrainer.get_batch_loss_metrics(trainer, model, batch)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return measure(packed_step if name == "ours" else trl_step)


def head(name: str, vocab_size: int) -> dict[str, Any]:
    """Log-probabilities of targets and the gradient of the hidden states: the engine's tiles, full logits, or torch's fused function."""
    import torch
    from torch.nn.functional import cross_entropy

    from orpo_cli.training.engine.lm_head import LinearLogProbs, LogitTransform

    hidden, weight = torch.randn(ROWS, HIDDEN, requires_grad=True), torch.randn(vocab_size, HIDDEN) * 0.05
    targets = torch.randint(vocab_size, (ROWS,))

    def tiled() -> torch.Tensor:
        return -LinearLogProbs.apply(hidden, weight, None, targets, LogitTransform()).sum()  # type: ignore[no-untyped-call, no-any-return]

    def full() -> torch.Tensor:
        return cross_entropy(hidden @ weight.T, targets, reduction="sum")

    def fused() -> torch.Tensor:
        functional: Any = torch.nn.functional
        options = torch.nn.LinearCrossEntropyOptions()  # in chunks, as torch chooses
        return functional.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options).sum()  # type: ignore[no-any-return]

    compute = {"head-ours": tiled, "head-full": full, "head-torch": fused}[name]

    def forward_and_backward() -> torch.Tensor:
        loss = compute()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return measure(forward_and_backward)


def measure(compute: Any) -> dict[str, Any]:
    """Compute twice: memory of the first run, seconds of the second."""
    before = reset_peak_memory()
    loss = float(compute().detach())
    peak = peak_gb() - before
    began = time.perf_counter()
    compute()
    return {"seconds": time.perf_counter() - began, "peak_gb": peak, "loss": loss}


def print_table(names: dict[str, str], vocab_sizes: list[int], rounds: int) -> None:
    """Print a row for each vocab_size, with the columns of each side, ours last."""
    heads = [f"{label}, {unit}" for label in names.values() for unit in ("s", "GB")]
    print(
        f"| vocabulary size | {' | '.join(heads)} | time ratio | memory ratio | memory relative to {vocab_sizes[0]:,} |"
    )
    print("| " + " | ".join(["---"] * (len(heads) + 4)) + " |")
    first = None
    for count in vocab_sizes:
        command = ["-m", "benchmarks.vocabulary", "--words", str(count), "--side"]
        results = run_alternating({name: [*command, name] for name in names}, rounds)
        figures = {name: (median(found, "seconds"), median(found, "peak_gb")) for name, found in results.items()}
        trl, ours = figures[next(iter(names))], figures[list(names)[-1]]
        first = first or ours[1]
        cells = [f"{figures[name][0]:.2f} | {figures[name][1]:.2f}" for name in names]
        print(
            f"| {count:,} | {' | '.join(cells)} | **{trl[0] / ours[0]:.2f}** | **{ours[1] / trl[1]:.2f}** | {ours[1] / first:.2f} |",
            flush=True,
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, nargs="*", default=list(VOCAB_SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    silence_libraries()
    if options.side:
        print(json.dumps(run_side(options.side, *options.words)))
        return
    print(
        f"A step of {PAIRS} pairs of {PROMPT} + 2 × {ANSWER} tokens, {LAYERS} layers; {describe_machine()}; medians of {options.rounds}.\n"
    )
    print_table({"trl": "TRL", "ours": "orpo-cli"}, options.words, options.rounds)
    print(f"\nThe language model head alone, {ROWS:,} predictions, hidden size {HIDDEN}, forward and backward pass.\n")
    names = {"head-full": "full logits", "head-torch": "linear_cross_entropy", "head-ours": "orpo-cli"}
    print_table(names, options.words, options.rounds)


if __name__ == "__main__":
    main()
