"""Picture of the README: the final lines of `orpo quickstart`, from the records of a finished run.

    python -m tools.quickstart_picture runs/quickstart

Writes docs/images/quickstart.svg. The table and the answers are printed by the functions that the commands use.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console

from orpo_cli.cli.eval import _legend, _table
from orpo_cli.cli.quickstart import MAX_NEW_TOKENS, PROMPTS
from orpo_cli.report.answers_view import answers_view
from orpo_cli.report.console import wrap_words
from orpo_cli.rundir import RunDir

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "quickstart.svg"
WIDTH = 100  # columns


def picture(run: RunDir) -> str:
    """SVG text of a terminal with the evaluation and the compared answers of ``run``."""
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    samples = json.loads(run.samples.read_text(encoding="utf-8"))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False, emoji=False)
    console.print("$ orpo eval runs/quickstart", style="bold")
    console.print(_table(evaluation))
    for text in (*evaluation["findings"], _legend(evaluation)):
        console.print(wrap_words(text, WIDTH))
    console.print(
        f"\n$ orpo generate runs/quickstart --compare -n {PROMPTS} --max-new-tokens {MAX_NEW_TOKENS}", style="bold"
    )
    for renderable in answers_view(samples, WIDTH):
        console.print(renderable)
    return console.export_svg(title="orpo quickstart", unique_id="quickstart")


if __name__ == "__main__":
    with RunDir(Path(sys.argv[1])) as found:
        PICTURE.write_text(picture(found), encoding="utf-8")
    print(f"wrote {PICTURE}")
