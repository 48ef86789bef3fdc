"""Long pairs: time and memory of a step of one pair of 4,096 to 32,768 tokens, orpo-cli against TRL and against its own estimate.

    python -m benchmarks.long_pairs [--tokens 4096 8192 ...] [--trl-tokens 4096]

Both sides train a LoRA adapter (r 16, all linear layers) of SmolLM2-135M in float32 for one step on one core, each length once,
in its own process. Half of a pair's tokens are chosen and half rejected, after a prompt of an eighth. Time is processor time,
which other processes on the machine change less. Pairs longer than ``--trl-tokens`` are not given to TRL; its memory is
estimated in the same way as that of orpo-cli, which is shown in brackets. The model was trained on sequences of at most 8,192
tokens; its rotary positions continue beyond, and only time and memory are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import describe_machine, run_alternating
from benchmarks.preparation import SMOLLM2
from benchmarks.training import OURS_ENVIRONMENT, Setting, make_recipe, side_command, table_row
from orpo_cli.library_messages import silence_libraries

WORDS = [
    "time",
    "people",
    "way",
    "year",
    "day",
    "man",
    "world",
    "life",
    "hand",
    "part",
    "child",
    "place",
    "work",
    "week",
    "case",
    "point",
    "number",
    "group",
    "problem",
    "fact",
]
TEMPLATE_TOKENS = 32  # that the chat template adds to a sequence, at most
HEAD = table_row(
    "tokens per pair", "TRL, s", "orpo-cli, s", "ratio", "TRL, GB", "orpo-cli, GB", "ratio", "estimate for orpo-cli, GB"
)


def write_pairs(file: Path, tokens: int) -> int:
    """Two pairs of about ``tokens`` tokens each, whose words are one token each; returns the length of a sequence."""
    draw = random.Random(0)
    prompt, answer = tokens // 8, (tokens - tokens // 8) // 2

    def text(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    rows = [
        {"prompt": text(prompt - TEMPLATE_TOKENS), "chosen": text(answer), "rejected": text(answer)} for _ in range(2)
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return prompt + answer + TEMPLATE_TOKENS


def estimated_gb(file: Path, setting: Setting, fast_path: str) -> float:
    """Peak memory of a step in GB, as `orpo plan` estimates it."""
    from orpo_cli.estimate.memory import estimate_memory
    from orpo_cli.recipe.load import load_recipe
    from orpo_cli.report.console import Console
    from orpo_cli.workflows.plan import build_plan

    source = os.environ.get("ORPO_BENCH_MODEL", SMOLLM2)
    recipe = make_recipe(setting, source, str(file), 1, 1)
    path = file.with_suffix(f".{fast_path}.json")
    path.write_text(json.dumps({**recipe, "engine": {"fast_path": fast_path}}))
    planned = build_plan(load_recipe(str(path)), Console(quiet=True), to_train=True, strict=False)
    assert planned.estimate_inputs is not None
    return estimate_memory(planned.plan, planned.estimate_inputs).total / 1e9


def measure(name: str, file: Path, setting: Setting) -> dict[str, Any]:
    """One step of a side: its processor seconds, and GB of the process at the peak."""
    command = side_command(name, str(file), 1, 1, 1, setting)
    result = run_alternating({name: command}, 1, "trl", OURS_ENVIRONMENT)[name]
    print(json.dumps({"side": name, "tokens": setting.max_length, "results": result}), file=sys.stderr, flush=True)
    if not result:
        return {"seconds": None, "gb": None}
    return {"seconds": result[0]["cpu_seconds_per_pair"], "gb": result[0]["held_gb"] + result[0]["peak_gb"]}


def row(tokens: int, folder: Path, with_trl: bool, checkpointing: bool) -> str:
    """The row of a length."""
    file = folder / f"{tokens}.jsonl"
    setting = Setting(max_length=write_pairs(file, tokens), checkpointing=checkpointing)
    ours, estimate = measure("ours", file, setting), estimated_gb(file, setting, "auto")
    seconds, gb = f"{ours['seconds']:.0f}", f"{ours['gb']:.2f}"
    if not with_trl:
        trl_gb = estimated_gb(file, setting, "off")
        ratio = f"({ours['gb'] / trl_gb:.2f})"
        return table_row(f"{tokens:,}", "", seconds, "", f"({trl_gb:.1f})", gb, ratio, f"{estimate:.2f}")
    trl = measure("trl", file, setting)
    if trl["gb"] is None:
        return table_row(f"{tokens:,}", "killed", seconds, "", "killed", gb, "", f"{estimate:.2f}")
    return table_row(
        f"{tokens:,}", f"{trl['seconds']:.0f}", seconds, f"**{trl['seconds'] / ours['seconds']:.2f}**",
        f"{trl['gb']:.2f}", gb, f"**{ours['gb'] / trl['gb']:.2f}**", f"{estimate:.2f}",
    )  # fmt: skip


def main() -> None:
    """Run each length and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[4096, 8192, 16384, 32768], help="tokens of a pair")
    parser.add_argument("--trl-tokens", type=int, default=4096, help="the longest pairs that TRL gets")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    options = parser.parse_args()
    silence_libraries()
    how = ", with checkpointing" if options.checkpointing else ""
    print(f"One pair a step{how}, one core; {describe_machine()}.\n\n{HEAD}\n{table_row(*['---'] * 8)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for tokens in options.tokens:
            print(row(tokens, Path(folder), tokens <= options.trl_tokens, options.checkpointing), flush=True)


if __name__ == "__main__":
    main()
