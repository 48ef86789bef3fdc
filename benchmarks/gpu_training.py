"""Training table of ``gpu.sh``: one case, orpo-cli first and then TRL, each alone and in its own process.

    python -m benchmarks.gpu_training DIR NAME NEEDED LIMIT FILE:PAIRS [arguments of benchmarks.training]

The figures of a side are appended to DIR/training.jsonl when it has finished. ``--profile`` profiles the last steps of
orpo-cli's side, and writes DIR/profile.json and DIR/profile-tables.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.paired import run_alternating
from benchmarks.training import OURS_ENVIRONMENT


def main() -> None:
    """Run both sides."""
    folder, name, _, _, file, *arguments = sys.argv[1:]
    profile = "--profile" in arguments
    arguments = [each for each in arguments if each != "--profile"]
    for side in ("ours", "trl"):
        command = ["-m", "benchmarks.training", file, *arguments, "--side", side]
        if profile and side == "ours":
            command += ["--profile", folder]
        (figures,) = run_alternating({side: command}, 1, None, OURS_ENVIRONMENT)[side]
        with (Path(folder) / "training.jsonl").open("a") as lines:
            lines.write(json.dumps({"case": name, "side": side, "file": file, **figures}) + "\n")


if __name__ == "__main__":
    main()
