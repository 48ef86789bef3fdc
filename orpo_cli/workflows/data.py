"""Data workflow (`orpo data`): plan, tokenizer, prepared pairs, their audit, and pairs to show token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.plan.plan import Plan
from orpo_cli.report.console import Console
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting

if TYPE_CHECKING:
    from orpo_cli.data.audit import Audit
    from orpo_cli.data.prepare import PairTables
    from orpo_cli.data.report import DataReport
    from orpo_cli.data.table import PairTable


@dataclass(frozen=True)
class DataInspection:
    """What a recipe would train on. ``audits`` by part (train, eval); ``steps``: how many steps go through the pairs.

    ``pairs``: those to show, each with its number (``pair``), the name of its row (``row``, such as train.jsonl:17), and the
    ``TokenSpan`` lists of ``prompt``, ``chosen`` and ``rejected``.
    """

    name: str
    report: DataReport
    audits: dict[str, Audit]
    steps: dict[str, Any]
    pairs: list[dict[str, Any]]
    loss_on_prompt: bool

    def as_dict(self) -> dict[str, Any]:
        """The document of `orpo data --json`."""
        return {
            "status": "ok",
            "report": self.report,
            "audit": self.audits,
            "steps": self.steps,
            "pairs": self.pairs,
        }


def inspect_data(
    recipe: str,
    overrides: Sequence[str] | None,
    console: Console,
    *,
    show: int = 0,
    row: str | None = None,
    strict: bool = False,
) -> DataInspection:
    """Prepare the pairs of a recipe as training would, and summarize them; loads the tokenizer and no weights.

    ``show``: the first pairs to show. ``row``: the one pair to show instead, by its number or the name of its row.
    """
    from orpo_cli.data.audit import audit
    from orpo_cli.data.prepare import prepare_tables
    from orpo_cli.data.token_spans import token_spans
    from orpo_cli.model.tokenizer import load_tokenizer

    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    plan, source, *_ = build_plan(loaded, console, to_train=False, strict=strict)
    tokenizer = load_tokenizer(source, console.note)
    parts = prepare_tables(
        plan.dataset,
        tokenizer,
        max_length=plan.training["max_length"],
        max_prompt_length=plan.dataset.max_prompt_length,
        note=console.note,
        pairs_needed=plan.total_pairs(),
    )
    tables = {"train": parts.train} | ({"eval": parts.eval} if parts.eval is not None else {})
    audits = {part: audit(table, parts.report.max_length) for part, table in tables.items()}
    shown = parts.train.select(range(min(show, len(parts.train)))) if row is None else _find_pair(parts, row)
    loss_on_prompt = bool(plan.training.get("loss_on_prompt", True))
    pairs = [
        {"pair": pair["pair"], "row": pair["row"], **token_spans(pair, parts.encoder, loss_on_prompt=loss_on_prompt)}
        for pair in (shown.dataset() if len(shown) else [])
    ]
    return DataInspection(plan.name, parts.report, audits, _count_steps(plan, len(parts.train)), pairs, loss_on_prompt)


def _find_pair(parts: PairTables, row: str) -> PairTable:
    """A table of the one pair with this number or row name. Raises UsageError where there is none."""
    for table in filter(None, (parts.train, parts.eval)):
        names: list[Any] = table.pair_numbers.tolist() if row.isdigit() else table.row_names()
        wanted = int(row) if row.isdigit() else row
        if wanted in names:
            return table.select([names.index(wanted)])
    example = parts.train.select([0]).row_names()[0]
    raise UsageError(
        f"--row {row}: there is no pair of this number or row name among the training and held-out pairs.",
        remedy=f"Give a number from 0 to {max(parts.train.pair_numbers)}, or a name such as {example}; "
        "the summary says why rows are dropped.",
    )


def _count_steps(plan: Plan, pairs: int) -> dict[str, Any]:
    """Pairs per optimizer step, steps per epoch, and steps and epochs of the run."""
    training = plan.training
    pairs_per_step = plan.launch.pairs_per_step
    steps_per_epoch = max(1, math.ceil(pairs / pairs_per_step))
    max_steps = training.get("max_steps") or -1
    steps = max_steps if max_steps > 0 else math.ceil(steps_per_epoch * training.get("num_train_epochs", 3))
    return {
        "pairs_per_step": pairs_per_step,
        "steps_per_epoch": steps_per_epoch,
        "steps": steps,
        "epochs": round(steps / steps_per_epoch, 2),
    }
