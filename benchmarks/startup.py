"""Start time of light commands, compared with the import of the libraries that they need.

python benchmarks/startup.py [--runs 21]

Both sides of a pair run one after the other, so other load on the machine affects both; the medians of the pairs are printed.
Python writes and reads bytecode, as for an installed package, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTS = ["-c", "import typer, pydantic, yaml"]
ORPO = ["-m", "orpo_cli"]
COMMANDS = {
    "orpo validate, one recipe": [*ORPO, "validate", "recipes/quickstart.yaml"],
    "orpo validate, every shipped recipe": [*ORPO, "validate", *map(str, sorted(ROOT.glob("recipes/**/*.yaml")))],
    "orpo --version": [*ORPO, "--version"],
    "orpo --help": [*ORPO, "--help"],
}


def measure_seconds(arguments: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT)
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs
    print(f"| command | median ms | `python {IMPORTS[0]} '{IMPORTS[1]}'`, median ms | median of the ratios |")
    print("| --- | --- | --- | --- |")
    for name, arguments in COMMANDS.items():
        measure_seconds(arguments), measure_seconds(IMPORTS)  # writes bytecode, and reads files into the page cache
        pairs = [(measure_seconds(arguments), measure_seconds(IMPORTS)) for _ in range(runs)]
        command, imports = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
        ratio = statistics.median(command / imports for command, imports in pairs)
        print(f"| `{name}` | {command:.0f} | {imports:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
