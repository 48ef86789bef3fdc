"""Report page: one self-contained HTML file of one run or many. It requests nothing, and all texts are escaped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orpo_cli import __version__
from orpo_cli.atomic import atomic_write_text
from orpo_cli.control_characters import escape_controls
from orpo_cli.redaction import redact_record
from orpo_cli.report.page.document import chart_document
from orpo_cli.report.page.sections import sections
from orpo_cli.report.run_differences import value_text
from orpo_cli.report.run_history import RunHistory
from orpo_cli.report.runs_table import RunRow, run_rows, table_cells

FOLDER = Path(__file__).parent
TEMPLATE = "report.html.jinja"


def write_report(histories: Sequence[RunHistory], path: Path, *, reload_seconds: float | None = None) -> Path:
    """Write the page to ``path``, whose folder exists. With ``reload_seconds`` the page reloads itself. Raises OSError."""
    atomic_write_text(path, render_report(histories, reload_seconds=reload_seconds))
    return path


def render_report(histories: Sequence[RunHistory], *, reload_seconds: float | None = None) -> str:
    """The text of the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    texts = redact_record(sections(histories))
    table_rows = run_rows(histories)
    titles, rows = table_cells(table_rows)
    for label, row in zip(texts["labels"], rows, strict=True):
        row[0] = label  # a path would push the numbers out of the window
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        **texts,
        title=texts["labels"][0] if len(histories) == 1 else f"{len(histories)} runs",
        summary=redact_record(_summary(table_rows, histories)),
        version=__version__,
        reload_seconds=reload_seconds,
        table={"titles": titles, "rows": redact_record(rows)},
        problems=[(label, history.problems) for label, history in zip(texts["labels"], histories, strict=True) if history.problems],
        charts=_script_json(chart_document(histories, texts["labels"])),
        files={name: (FOLDER / name).read_text(encoding="utf-8") for name in ("uplot.LICENSE", "uplot.min.js", "uplot.min.css", "report.css", "report.js")},
    )  # fmt: skip
    return escape_controls(page)


def _summary(rows: Sequence[RunRow], histories: Sequence[RunHistory]) -> str:
    """One line: how many runs have which status, and what was changed."""
    counts = Counter(str(row.status) for row in rows)
    status = ", ".join(status if len(rows) == 1 else f"{count} {status}" for status, count in counts.items())
    if len(rows) > 1:
        changed = ", ".join(rows[0].changed)
        return f"{status} · different: {changed}" if changed else status
    values = histories[0].run.get("changed")
    changed = (
        ", ".join(f"{key}={value_text(value)}" for key, value in values.items()) if isinstance(values, dict) else ""
    )
    where = "given in Python" if histories[0].run.get("command") == [] else "changed on the command line"
    return f"{status} · {where}: {changed}" if changed else status


def _script_json(document: object) -> str:
    """JSON in a script element: without characters that could end it."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
