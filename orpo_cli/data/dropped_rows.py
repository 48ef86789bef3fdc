"""Dropped rows with their texts, for a page that shows them. The data report has only their counts and the first names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orpo_cli.data.pair import Pair, RowRejected
from orpo_cli.data.turns import names_of_pair

MAX_RAW_CHARACTERS = 4000  # of a row that is no pair


@dataclass(frozen=True)
class DroppedRow:
    """A row or pair that is not used. ``texts``: prompt, chosen and rejected; of a row that is no pair, its JSON alone."""

    part: str  # train or eval
    row: str
    reason: str
    detail: str
    texts: tuple[str, ...]


@dataclass
class DroppedRows:
    """Collection of the first ``limit`` dropped rows; ``part`` is that of the source that is read."""

    limit: int
    part: str = "train"
    rows: list[DroppedRow] = field(default_factory=list)

    def add(self, row: str, rejection: RowRejected, content: Any = None) -> None:
        """Keep a dropped row; ``content`` is a Pair, three texts, or what the row has."""
        if len(self.rows) < self.limit:
            self.rows.append(DroppedRow(self.part, row, rejection.reason, rejection.detail, _texts(content)))


@dataclass
class DropsOfRows(DroppedRows):
    """Rejections of the rows ``names``, by name: of the row, of its pairs, or of the group of which it is one row."""

    limit: int = 0
    names: Sequence[str] = ()
    rejections: dict[str, list[RowRejected]] = field(default_factory=dict)

    def add(self, row: str, rejection: RowRejected, content: Any = None) -> None:
        """Keep the rejection if it is of one of the rows."""
        for name in set(self.names).intersection(names_of_pair(row)):
            self.rejections.setdefault(name, []).append(rejection)


def _texts(content: Any) -> tuple[str, ...]:
    if content is None:
        return ()
    if isinstance(content, tuple):
        return content
    if isinstance(content, Pair):
        turns = [] if isinstance(content.prompt, str) else [f"{turn.role}: {turn.content}" for turn in content.prompt]
        prompt = "\n".join(turns) if turns else content.prompt_text
        return prompt, content.chosen_text, content.rejected_text
    return (json.dumps(content, ensure_ascii=False, default=str, indent=1)[:MAX_RAW_CHARACTERS],)
