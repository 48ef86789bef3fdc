"""Rows prepared for training with a tiny ChatML tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.recipe.schema import DatasetSection
from support.data_tokenizers import tokenizer_of


def prepare_rows(
    path: Path,
    rows: list[Any],
    source: dict[str, Any] | None = None,
    *,
    max_length: int = 192,
    max_prompt_length: int = 96,
    **dataset: Any,
) -> PreparedData:
    """Write ``rows`` to ``path`` as JSON lines and prepare them; lengths in tokens."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DatasetSection.model_validate({"train": {"path": str(path), **(source or {})}, **dataset})
    return prepare(
        section,
        tokenizer_of("chatml"),
        max_length=max_length,
        max_prompt_length=max_prompt_length,
        note=lambda _: None,
    )
