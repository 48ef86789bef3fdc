"""Page of prepared data: one HTML file with the audit, the pairs token by token, and the dropped rows.

It loads nothing and sends nothing: its Content-Security-Policy allows the one script and the one style sheet in it, by their
hashes. The script builds a few pairs at a time, because the spans of thousands of pairs are too many for a browser.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.control_characters import escape_controls
from orpo_cli.data.audit import Audit
from orpo_cli.data.dropped_rows import DroppedRow
from orpo_cli.data.filters import REASONS
from orpo_cli.data.report import DataReport
from orpo_cli.data.token_spans import TokenSpan
from orpo_cli.redaction import redact_record
from orpo_cli.report.data_view import LOSS_TERMS
from orpo_cli.secret_values import map_strings, mask_secrets

FILES = Path(__file__).with_name("data_page_files")
PARTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PageContent:
    """Content of the page. ``pairs``: ``part``, ``pair`` and ``row`` of each, its spans, and ``full``, its lengths before truncation."""

    title: str
    report: DataReport
    audits: dict[str, Audit]
    steps: dict[str, Any]
    pairs: list[dict[str, Any]]
    dropped: list[DroppedRow]


def data_page(content: PageContent) -> str:
    """The HTML text of the page. Everything that data can contain is escaped, and secrets are masked."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style, script = ((FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = (FILES / "page.html").read_text(encoding="utf-8")
    shown = {"train": content.report.train_pairs, "eval": content.report.eval_pairs}
    return (
        Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            title=_safe(content.title),
            style=Markup(style),
            script=Markup(script),
            policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'",
            lines=_safe(content.report.lines()),
            warnings=[each.text() for part, audit in content.audits.items() for each in audit.problems(part)],
            report=content.report,
            audits=content.audits,
            steps=content.steps,
            left_out=sum(shown.values()) - len(content.pairs),
            rows_left_out=sum(content.report.dropped.values()) - len(content.dropped),
            data=Markup(_script_json(_document(content))),
        )
    )


def _document(content: PageContent) -> dict[str, Any]:
    """The pairs as the script reads them: tokens are positions in ``vocab``, which has each token once."""
    vocab: dict[tuple[Any, ...], int] = {}

    def numbers(spans: Sequence[TokenSpan]) -> list[int]:
        return [vocab.setdefault((span.ids, escape_controls(span.text), span.purpose), len(vocab)) for span in spans]

    pairs = [
        {
            "part": pair["part"],
            "pair": pair["pair"],
            "row": _safe(pair["row"]),
            "full": pair["full"],
            "cut": [
                full > sum(len(span.ids) for span in pair[part]) for part, full in zip(PARTS, pair["full"], strict=True)
            ],
            **{part: numbers(pair[part]) for part in PARTS},
        }
        for pair in content.pairs
    ]
    dropped = [
        {
            "part": row.part,
            "row": _safe(row.row),
            "reason": f"{row.reason}: {REASONS[row.reason]}",
            "detail": _safe(row.detail),
            "texts": _safe(list(row.texts)),
        }
        for row in content.dropped
    ]
    roles = {purpose: description for purpose, (description, _) in LOSS_TERMS.items()}
    return {"vocab": list(vocab), "roles": roles, "pairs": pairs, "dropped": dropped}


def _safe(value: Any) -> Any:
    """Texts without secrets, and with visible control characters."""
    return map_strings(redact_record(mask_secrets(value)), escape_controls)


def _script_json(document: dict[str, Any]) -> str:
    """JSON that ends neither its script element nor starts a comment in it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
