"""``make bench``: everything that is compared with TRL and PEFT, printed and written to docs/performance.md.

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
PARTS = ("preparation", "training", "vocabulary", "curves", "merging")


def write(part: str, text: str) -> None:
    """Put ``text`` where the page has the part's tables, between its two comments."""
    page = PAGE.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
    if not place.search(page):
        raise SystemExit(f"{PAGE} has no place for {part}: <!-- {part} --> and <!-- /{part} -->")
    page = place.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", page)
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Run each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="preference files")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--quick", action="store_true", help="once, few steps, and nothing is written")
    options = parser.parse_args()
    named = [file.partition(":")[0] if ":" in file[2:] else file for file in options.files]
    commands = {
        "preparation": [*named, *(["--rounds", "1"] if options.quick else [])],
        "training": [*options.files, *(["--quick"] if options.quick else [])],
        "vocabulary": ["--rounds", "1"] if options.quick else [],
        "curves": ["--steps", "5", "--svg", "/dev/null"] if options.quick else [],
        "merging": ["--gigabytes", "0.3", "--rounds", "1"] if options.quick else [],
    }
    for part in options.only:
        command = [sys.executable, "-m", f"benchmarks.{part}", *commands[part]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            lines = []
            for line in running.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if running.returncode:
            raise SystemExit(f"{part} failed with {running.returncode}")
        if not options.quick:
            write(part, "".join(lines))


if __name__ == "__main__":
    main()
