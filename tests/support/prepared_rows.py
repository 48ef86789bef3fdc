"""Rows prepared for training, with a tiny ChatML tokenizer unless another is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.errors import OrpoError
from orpo_cli.recipe.schema import DatasetSection
from support.data_tokenizers import tokenizer_of
from support.json_lines import write_json_lines


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
    write_json_lines(path, rows)
    dataset = {"train": {"path": str(path), **(source or {})}, **dataset}
    prepared: PreparedData = prepare_dataset(dataset, max_length=max_length, max_prompt_length=max_prompt_length)
    return prepared


def prepare_dataset(
    dataset: dict[str, Any],
    call: Callable[..., Any] = prepare,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **lengths: int,
) -> Any:
    """Prepare the section ``dataset`` of a recipe with ``prepare`` or ``prepare_eval``; lengths in tokens."""
    section = DatasetSection.model_validate(dataset)
    limits = {"max_length": 192, "max_prompt_length": 96, **lengths}
    return call(section, tokenizer or tokenizer_of("chatml"), note=lambda _: None, **limits)


def preparation_error(dataset: dict[str, Any], **options: Any) -> OrpoError:
    with pytest.raises(OrpoError) as caught:
        prepare_dataset(dataset, **options)
    return caught.value


def write_source(path: Path, rows: list[Any]) -> dict[str, Any]:
    """Write ``rows`` to ``path`` as JSON lines: the source of a recipe."""
    return {"path": str(write_json_lines(path, rows))}


def text_pair(**changes: Any) -> dict[str, Any]:
    return {"prompt": "What is water?", "chosen": " Wet.", "rejected": " Hard to say.", **changes}
