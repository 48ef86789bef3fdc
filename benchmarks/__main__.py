"""``make bench``: all comparisons with TRL and PEFT, printed and written to docs/performance.md.

    python -m benchmarks [FILE[:PAIRS,...] ...] [--only training ...] [--quick]

Files are preference data to use, with the batch sizes to train them at; without any, synthetic conversations.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PARTS = (
    "startup", "preparation", "training", "evaluation", "trees", "long_pairs", "vocabulary", "curves", "checkpoint", "merging",
    "dealing", "processes", "large_data", "gpu",
)  # fmt: skip
GPU_MODEL = "llama-3.1-8b"  # its shape, with random weights


def write(part: str, text: str) -> None:
    """Replace the tables of ``part`` in the page, between its two comments."""
    page = PAGE.read_text(encoding="utf-8")
    section = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not section.search(page):
        raise SystemExit(f"{PAGE} has no section for {part}: <!-- {part} --> and <!-- /{part} -->")
    page = section.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", page)
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Run each part in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="parts to run; default: all that this machine can")
    parser.add_argument("--quick", action="store_true", help="once, few steps, and nothing is written")
    options = parser.parse_args()
    named = [file.partition(":")[0] if ":" in file[2:] else file for file in options.files]
    quick = ["--quick"] if options.quick else []
    commands = {
        "startup": ["--runs", "1"] if options.quick else [],
        "preparation": [*named, *(["--rounds", "1"] if options.quick else [])],
        "training": [*options.files, *quick],
        "long_pairs": ["--tokens", "1024"] if options.quick else [],
        "evaluation": [*named, *quick],
        "trees": [*named, *(["--rounds", "1"] if options.quick else [])],
        "vocabulary": ["--rounds", "1"] if options.quick else [],
        "curves": ["--steps", "5", "--svg", "/dev/null"] if options.quick else [],
        "checkpoint": ["--rounds", "1"] if options.quick else [],
        "dealing": named,
        "processes": [
            *named,
            *(["--model", "tiny", "--steps", "2", "--rounds", "1"] if options.quick else ["--steps", "3"]),
        ],
        "large_data": ["--pairs", "4000"] if options.quick else [],
        "merging": ["--gigabytes", "0.3", "--rounds", "1"] if options.quick else [],
    }
    for part in options.only or [part for part in PARTS if part != "gpu" or _has_gpu()]:
        runs = [[part, *commands[part]]] if part != "gpu" else _gpu_runs([*options.files, *quick])
        text = "\n".join(_run_and_print(run) for run in runs)
        if not options.quick:
            write(part, text)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpu_runs(arguments: list[str]) -> list[list[str]]:
    training = ["training", *arguments, "--model", GPU_MODEL]
    return [training, [*training, "--bits", "4"], ["kernels"]]


def _run_and_print(run: list[str]) -> str:
    """Run a benchmark, print its output as it comes, and return it."""
    command = [sys.executable, "-m", f"benchmarks.{run[0]}", *run[1:]]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if running.returncode:
        raise SystemExit(f"{run[0]} failed with {running.returncode}")
    return "".join(lines)


if __name__ == "__main__":
    main()
