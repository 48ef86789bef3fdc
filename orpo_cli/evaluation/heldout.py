"""The pairs that a model is judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.errors import DataError, UsageError
from orpo_cli.evaluation.subject import Subject
from orpo_cli.plan.plan import Plan
from orpo_cli.recipe.schema import DatasetSection, Source
from orpo_cli.recipe.training_fields import LIBRARY_DEFAULTS


@dataclass(frozen=True)
class Judged:
    """Rows of ``data.prepare``, and where they are from."""

    rows: list[dict[str, Any]]
    source: str  # "held-out" or the path
    available: int  # rows before max_samples


def refuse_without_pairs(plan: Plan | None, data: str | None) -> None:
    """Raise UsageError where nothing says which pairs to judge on; before any model is loaded."""
    if data is None and plan is None:
        raise UsageError(
            "a model on its own has no held-out pairs.", remedy="Say which pairs to use: --data FILE (or a hub dataset)."
        )
    if data is None and plan is not None and plan.dataset.eval is None:
        raise UsageError(
            f"the run {plan.name} held no pairs out.",
            remedy="Give pairs with --data FILE; next time set dataset.eval, for example {test_size: 0.05}.",
        )
    if data is not None and data.startswith((".", "/", "~")) and not Path(data).expanduser().exists():
        raise DataError(f"--data {data}: no such file or folder.", remedy="Give preference pairs: jsonl, json, csv, parquet.")


def judged_pairs(
    subject: Subject,
    *,
    data: str | None = None,
    max_samples: int | None = None,
    max_length: int | None = None,
    note: Callable[[str], None],
) -> Judged:
    """The pairs of ``data``, or those that the subject's run held out of training, tokenized as in training.

    ``max_length`` (tokens) is for a model on its own; a run keeps its own. Raises UsageError or DataError.
    """
    from orpo_cli.data.prepare import prepare

    refuse_without_pairs(subject.plan, data)
    dataset, longest, longest_prompt = _what_to_prepare(subject.plan, data, max_length)
    prepared = prepare(dataset, subject.tokenizer, max_length=longest, max_prompt_length=longest_prompt, note=note)
    for line in prepared.report.lines():
        note(line)
    pairs = prepared.eval if data is None else prepared.train
    if pairs is None or len(pairs) == 0:
        raise DataError("no usable pair is held out.", remedy="See the drops above, or give pairs with --data.")
    rows = pairs.select(range(min(max_samples or len(pairs), len(pairs)))).to_list()
    return Judged(rows=rows, source=data or "held-out", available=len(pairs))


def _what_to_prepare(plan: Plan | None, data: str | None, max_length: int | None) -> tuple[DatasetSection, int, int]:
    """Dataset section, longest pair and longest prompt in tokens."""
    train = None if data is None else [Source(path=str(Path(data).expanduser()) if data.startswith("~") else data)]
    if plan is None:
        assert train is not None, "refuse_without_pairs"
        longest = max_length or int(LIBRARY_DEFAULTS["max_length"])
        return DatasetSection(train=train), longest, max(1, longest // 2)
    trained = plan.training["max_length"]
    if max_length is not None:
        raise UsageError(
            f"--max-length does nothing for the run {plan.name}: it keeps the {trained} it was trained with.",
            remedy="Leave --max-length out.",
        )
    assert plan.dataset.max_prompt_length is not None, "the plan decides it"
    dataset = plan.dataset if train is None else plan.dataset.model_copy(update={"train": train, "eval": None})
    return dataset, trained, plan.dataset.max_prompt_length
