"""Screen of `orpo plan`: the short view of a plan on standard output."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from orpo_cli.estimate.memory import EstimateInputs
from orpo_cli.planning.plan import Plan
from orpo_cli.report.console import Console
from orpo_cli.report.plan_summary import LABEL_WIDTH, Screen, plan_summary


def print_plan(
    plan: Plan,
    inputs: EstimateInputs | None,
    estimate: dict[str, Any] | None,
    rows: int | None,
    console: Console,
    *,
    every_value: str,
) -> None:
    """Print the short view of a plan. ``rows``: about how many pairs there are, where the rows were counted; ``every_value``: its last line."""
    terminal = console.out.is_terminal
    screen = Screen(
        width=console.out.width if terminal else None,
        every_value=every_value,
        has_bar=terminal,
        has_unicode=console.out.encoding.startswith("utf"),
    )
    for number, line in enumerate(plan_summary(plan, inputs, estimate, rows, screen)):
        text = Text(line)
        has_label = line[:1].strip() and line[LABEL_WIDTH - 1 : LABEL_WIDTH] == " "
        text.stylize("bold", 0, len(line) if number == 0 else LABEL_WIDTH if has_label else 0)
        console.result(text)
