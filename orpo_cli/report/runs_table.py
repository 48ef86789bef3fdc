"""Table of runs: what differs between them, evaluations with intervals, time and memory; as rows, text and CSV.

In a narrow terminal columns are left out by priority. Where the essential ones do not fit, and where all of them are too wide
for a pipe, each run is a block of lines with all values. A name or a number is never shortened or wrapped.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from orpo_cli.control_characters import escape_controls, one_line
from orpo_cli.json_files import first_number
from orpo_cli.report.remaining_time import duration_text
from orpo_cli.report.run_differences import changed_keys, value_text
from orpo_cli.report.run_history import Record, RunHistory, metric_value
from orpo_cli.run_attempts import FINISHED

GAP = "  "
MAX_NARROW = 24  # characters of a value
PIPE_WIDTH = 160  # characters of a table in a pipe or a file, which has no width
ESSENTIAL = 3  # the highest priority of columns without which a table says too little
MIN_PARENT = 12  # characters of a folder that is printed above the table and not in each row
_EVALUATIONS = ("base", "best", "last", "saved")


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation of a run on its held-out pairs."""

    step: int
    pairs: int | None
    accuracy: float | None
    interval: tuple[float, float] | None  # Wilson, 95%
    margin: float | None  # in log-probability (nats per token), without beta
    loss: float | None


@dataclass(frozen=True)
class RunRow:
    """One run of the table. None: not recorded, or not yet."""

    path: str
    name: str
    status: str
    changed: dict[str, Any]  # only the keys that differ between the runs
    steps: int | None
    total_steps: int | None
    base: EvaluationRow | None
    best: EvaluationRow | None
    last: EvaluationRow | None
    saved: EvaluationRow | None  # of the saved weights: the last or the best one
    seconds: float | None
    tokens_per_second: float | None
    peak_memory_gb: float | None
    started_at: str | None
    problems: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        values = dict(vars(self))
        return values | {each: values[each] and dict(vars(values[each])) for each in _EVALUATIONS}


def run_rows(histories: Sequence[RunHistory]) -> list[RunRow]:
    """A row for each run, in the same order."""
    return [_row(history, changed) for history, changed in zip(histories, changed_keys(histories), strict=True)]


def _row(history: RunHistory, changed: dict[str, Any]) -> RunRow:
    last_line = history.last_train
    started = history.run.get("started_at")
    return RunRow(
        path=str(history.path),
        name=history.name,
        status=history.status,
        changed=changed,
        steps=history.steps,
        total_steps=history.total_steps,
        base=_evaluation_row(history, history.base_eval),
        best=_evaluation_row(history, history.best_eval),
        last=_evaluation_row(history, history.last_eval),
        saved=_evaluation_row(history, history.saved_eval),
        seconds=first_number(history.run.get("train_seconds"), history.run.get("seconds"), last_line.get("elapsed")),
        tokens_per_second=first_number(history.run.get("tokens_per_second"), last_line.get("tokens_per_second")),
        peak_memory_gb=history.peak_memory_gb,
        started_at=started if isinstance(started, str) else None,
        problems=history.problems,
    )


def _evaluation_row(history: RunHistory, record: Record) -> EvaluationRow | None:
    if not record:
        return None
    pairs = first_number(record.get("eval_pairs"), history.data_report.get("eval_pairs"))
    accuracy, margin, loss = (metric_value(record, name, "eval_") for name in ("accuracy", "margin", "loss"))
    return EvaluationRow(
        int(record["step"]),
        None if pairs is None else int(pairs),
        accuracy,
        history.accuracy_interval(record),
        margin,
        loss,
    )


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[RunRow], str]
    priority: int  # the column with the highest number is left out first; 0: never
    left: bool = False


def runs_table(rows: Sequence[RunRow], width: int | None = None) -> tuple[str, list[str]]:
    """The text of the table, and the titles of the columns that a terminal of ``width`` characters has no space for.

    ``width`` is None in a pipe. Blocks of lines have all columns.
    """
    columns = [column for column in _columns(rows) if any(column.cell(row) for row in rows)]
    if width is None:
        return (_table if _width(columns, rows) <= PIPE_WIDTH else _blocks)(columns, rows, PIPE_WIDTH), []
    whole, heading, left_out = columns, "", list[str]()
    if _width(columns, rows) > width and len(parent := _common_parent(rows)) >= MIN_PARENT:
        heading = f"in {one_line(parent)}:\n"
        inside = _Column("run", lambda row: one_line(os.path.relpath(row.path, parent)), 0, left=True)
        whole = columns = [inside, *columns[1:]]
    while _width(columns, rows) > width:
        least = max(reversed(columns), key=lambda column: column.priority)
        if least.priority <= ESSENTIAL:
            return heading + _blocks(whole, rows, width), []
        columns = [column for column in columns if column is not least]
        left_out.insert(0, least.title)
    return heading + _table(columns, rows, width), left_out


def _table(columns: Sequence[_Column], rows: Sequence[RunRow], _: int) -> str:
    cells = [[column.title for column in columns], *([column.cell(row) for column in columns] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        GAP.join(
            _padded(cell, size, left=column.left) for cell, size, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in cells
    )


def _blocks(columns: Sequence[_Column], rows: Sequence[RunRow], width: int) -> str:
    """For each run a line with its path, and its values with their titles in indented lines of at most ``width`` characters."""
    lines = []
    for row in rows:
        lines.append(columns[0].cell(row))
        for item in (f"{column.title} {cell}" for column in columns[1:] if (cell := column.cell(row))):
            last = lines[-1]
            if last.startswith(GAP) and cell_len(f"{last}, {item}") <= width:
                lines[-1] = f"{last}, {item}"
            else:
                lines.append(f"{GAP}{item}")
    return "\n".join(lines)


def table_cells(rows: Sequence[RunRow]) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns that have values, and the cells of each run."""
    columns = [column for column in _columns(rows) if any(column.cell(row) for row in rows)]
    return [column.title for column in columns], [[column.cell(row) for column in columns] for row in rows]


def _columns(rows: Sequence[RunRow]) -> list[_Column]:
    keys = list(dict.fromkeys(key for row in rows for key in row.changed))
    short = [key.rpartition(".")[2] for key in keys]
    titles = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
    return [
        _Column("run", lambda row: one_line(row.path), 0, left=True),
        _Column("status", lambda row: row.status, 1, left=True),
        *(
            _key_column(rows, key, title, is_first=index < 3)
            for index, (key, title) in enumerate(zip(keys, titles, strict=True))
        ),
        _Column("steps", _steps_text, 8),
        _Column("base", lambda row: _accuracy_text(row.base), 9),
        _Column("best", lambda row: _accuracy_text(row.best), 0),
        _Column("best 95%", lambda row: _interval_text(row.best), 4),
        _Column("best at", lambda row: "" if row.best is None else str(row.best.step), 10),
        _Column("saved", lambda row: _accuracy_text(row.saved), 2),
        _Column("saved 95%", lambda row: _interval_text(row.saved), 7),
        _Column(
            "margin", lambda row: "" if row.saved is None or row.saved.margin is None else f"{row.saved.margin:.3f}", 6
        ),
        _Column("time", lambda row: "" if row.seconds is None else duration_text(row.seconds), 11),
        _Column("tokens/s", lambda row: "" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}", 12),
        _Column("memory", lambda row: "" if row.peak_memory_gb is None else f"{row.peak_memory_gb:.2f} GB", 13),
    ]


def _key_column(rows: Sequence[RunRow], key: str, title: str, *, is_first: bool) -> _Column:
    """The column of a changed key. Paths are shown without their folders where the values stay different.

    The first keys stay in a narrow terminal, unless their values are wide.
    """
    values = [row.changed[key] for row in rows if key in row.changed]
    is_short = len({value_text(each) for each in values}) == len({repr(each) for each in values})

    def cell(row: RunRow) -> str:
        return value_text(row.changed[key], short=is_short) if key in row.changed else ""

    is_narrow = all(cell_len(cell(row)) <= MAX_NARROW for row in rows)
    return _Column(title, cell, 3 if is_first and is_narrow else 5)


def _width(columns: Sequence[_Column], rows: Sequence[RunRow]) -> int:
    widths = [max(cell_len(each) for each in (column.title, *map(column.cell, rows))) for column in columns]
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _common_parent(rows: Sequence[RunRow]) -> str:
    try:
        parent = os.path.commonpath([os.path.dirname(row.path) for row in rows])
    except ValueError:  # absolute and relative paths
        return ""
    return parent if parent not in ("", os.sep) else ""


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return f"{text}{space}" if left else f"{space}{text}"


def _steps_text(row: RunRow) -> str:
    if row.steps is None:
        return ""
    of_total = "" if row.status == FINISHED or row.total_steps is None else f"/{row.total_steps}"
    return f"{row.steps}{of_total}"


def _accuracy_text(evaluation: EvaluationRow | None) -> str:
    return "" if evaluation is None or evaluation.accuracy is None else f"{evaluation.accuracy:.3f}"


def _interval_text(evaluation: EvaluationRow | None) -> str:
    interval = None if evaluation is None else evaluation.interval
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def runs_csv(rows: Sequence[RunRow]) -> str:
    """The table as CSV (RFC 4180): all numbers in full, a column for each changed key by its dotted name."""
    keys = list(dict.fromkeys(key for row in rows for key in row.changed))
    plain = ("steps", "total_steps", "seconds", "tokens_per_second", "peak_memory_gb", "started_at")
    of_evaluation = ("step", "pairs", "accuracy", "low", "high", "margin", "loss")
    header = [
        "path",
        "name",
        "status",
        *keys,
        *(f"{each}_{name}" for each in _EVALUATIONS for name in of_evaluation),
        *plain,
        "problems",
    ]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    for row in rows:
        cells = [row.path, row.name, row.status, *(row.changed.get(key) for key in keys)]
        for each in _EVALUATIONS:
            found: EvaluationRow | None = getattr(row, each)
            low, high = (found and found.interval) or (None, None)
            values = {**vars(found), "low": low, "high": high} if found else {}
            cells += [values.get(name) for name in of_evaluation]
        cells += [*(getattr(row, name) for name in plain), "; ".join(row.problems)]
        writer.writerow(map(_csv_value, cells))
    return file.getvalue()


def _csv_value(value: Any) -> Any:
    """A cell. A text that a spreadsheet would compute as a formula gets an apostrophe before it."""
    if isinstance(value, int | float) or value is None:
        return value
    text = escape_controls(str(value))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
