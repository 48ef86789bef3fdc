"""Table of training steps and evaluations for a terminal: rows of text, with the columns that fit its width.

A column that does not fit is left out, the least important one first; no number is cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("nll_loss", "NLL", "{:.4f}"),
    ("log_odds_ratio", "OR loss", "{:.4f}"),  # with the other sign: the L_OR of the paper, which falls
    ("rewards/accuracies", "accuracy", "{:.2f}"),
    ("margin", "margin", "{:.4f}"),  # without beta, as everywhere except in TRL's rewards/margins
    ("grad_norm", "grad norm", "{:.3f}"),
    ("learning_rate", "lr", "{:.2e}"),
    ("tokens_per_second", "tok/s", "{:.0f}"),
    ("memory_gb", "GB", "{:.2f}"),
)
MOST_IMPORTANT_FIRST = (
    "loss", "rewards/accuracies", "margin", "log_odds_ratio", "tokens_per_second", "learning_rate", "nll_loss",
    "grad_norm", "memory_gb",
)  # fmt: skip
USUAL_WIDTHS = {"tokens_per_second": 6, "memory_gb": 6, "learning_rate": 8}
USUAL_WIDTH = 7  # of the others: -0.1234
GAP = 2
MIN_ROWS = 5  # between two headers, however low the terminal is


def step_cells(values: dict[str, Any]) -> dict[str, str]:
    """The text of each metric of ``COLUMNS`` that ``values`` has."""
    shown = dict(values)
    if "log_odds_ratio" in values:
        shown["log_odds_ratio"] = 0 - values["log_odds_ratio"]
    if "logps/chosen" in values and "logps/rejected" in values:
        shown["margin"] = values["logps/chosen"] - values["logps/rejected"]
    return {name: form.format(shown[name]) for name, _, form in COLUMNS if name in shown}


class Row(NamedTuple):
    """Line of the table, and its rich style."""

    text: str
    style: str


class StepTable:
    """Rows for a terminal, with a header at the start, after each screenful, and where the columns change."""

    def __init__(self, steps: int) -> None:
        self._label_width = len(f"eval {steps}")
        self._widths = {name: max(len(title), USUAL_WIDTHS.get(name, USUAL_WIDTH)) for name, title, _ in COLUMNS}
        self._header = ""
        self._rows_since_header = 0

    def rows(self, label: str, values: dict[str, Any], width: int, height: int, *, is_evaluation: bool) -> list[Row]:
        """The row of a step or an evaluation, after a header where one is due. ``width``, ``height``: of the terminal."""
        cells = step_cells(values)
        self._label_width = max(self._label_width, len(label))
        for name, cell in cells.items():
            self._widths[name] = max(self._widths[name], len(cell))
        shown = self._columns_that_fit(width)
        header = self._line("step", {name: title for name, title, _ in COLUMNS}, shown)
        row = Row(self._line(label, cells, shown), "bold" if is_evaluation else "")
        self._rows_since_header += 1
        if header == self._header and self._rows_since_header < max(MIN_ROWS, height - 2):
            return [row]
        self._header, self._rows_since_header = header, 0
        return [Row(header, "dim"), row]

    def _columns_that_fit(self, width: int) -> list[str]:
        left = width - 1 - self._label_width  # a full line would wrap in some terminals
        fitting = set()
        for name in MOST_IMPORTANT_FIRST:
            if (left := left - GAP - self._widths[name]) < 0:
                break
            fitting.add(name)
        return [name for name, *_ in COLUMNS if name in fitting]

    def _line(self, label: str, cells: dict[str, str], shown: list[str]) -> str:
        parts = [label.rjust(self._label_width), *(cells.get(name, "").rjust(self._widths[name]) for name in shown)]
        return (" " * GAP).join(parts).rstrip()
