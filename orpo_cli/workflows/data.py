"""Data workflow (`orpo data`): plan, tokenizer, prepared pairs, their audit, and pairs to show token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.estimate.batching import count_steps, steps_per_epoch
from orpo_cli.planning.plan import Plan
from orpo_cli.report.console import Console
from orpo_cli.workflows.plan import build_plan, check_local_data, load_recipe_reporting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.data.audit import Audit
    from orpo_cli.data.dropped_rows import DroppedRow
    from orpo_cli.data.pair import RowRejected
    from orpo_cli.data.prepare import PairTables, PrepareOptions
    from orpo_cli.data.report import DataReport
    from orpo_cli.data.table import PairTable
    from orpo_cli.report.data_page import PageContent

PAGE_PAIRS = 1000  # in a page, if --show does not say how many
PAGE_DROPPED_ROWS = 1000


@dataclass(frozen=True)
class DataInspection:
    """What a recipe would train on. ``audits`` by part (train, eval); ``steps``: how many steps go through the pairs.

    ``pairs``: those to show, each with its ``part``, number (``pair``), the name of its row (``row``, such as train.jsonl:17), and the
    ``TokenSpan`` lists of ``prompt``, ``chosen`` and ``rejected``. ``page_pairs``, for a page: also with its ``part`` and, as ``full``,
    the lengths before truncation. ``dropped_rows``: those that were asked for, each with a text that says why.
    """

    name: str
    report: DataReport
    audits: dict[str, Audit]
    steps: dict[str, Any]
    pairs: list[dict[str, Any]]
    loss_on_prompt: bool
    dropped_rows: dict[str, str] = field(default_factory=dict)
    page_pairs: list[dict[str, Any]] = field(default_factory=list)
    page_dropped: list[DroppedRow] = field(default_factory=list)

    def page_content(self) -> PageContent:
        """The content of the HTML page."""
        from orpo_cli.report.data_page import PageContent

        title = f"{self.name}: training data"
        return PageContent(title, self.report, self.audits, self.steps, self.page_pairs, self.page_dropped)

    def as_dict(self) -> dict[str, Any]:
        """The document of `orpo data --json`."""
        return {
            "status": "ok",
            "report": self.report,
            "audit": self.audits,
            "steps": self.steps,
            "pairs": self.pairs,
            **({"dropped_rows": self.dropped_rows} if self.dropped_rows else {}),
        }


def inspect_data(
    recipe: str,
    overrides: Sequence[str] | None,
    console: Console,
    *,
    show: int = 0,
    rows: Sequence[str] = (),
    page: bool = False,
    strict: bool = False,
) -> DataInspection:
    """Prepare the pairs of a recipe as training would, and summarize them; loads the tokenizer and no weights.

    ``show``: the first pairs to show. ``rows``: the pairs to show instead, by number or the name of a row. ``page``:
    collect what the HTML page has: ``show`` pairs (0: 1,000) and the dropped rows, for which the cache is not used.
    """
    from orpo_cli.data.audit import audit
    from orpo_cli.data.dropped_rows import DroppedRows
    from orpo_cli.data.prepare import prepare_tables
    from orpo_cli.model.tokenizer import load_tokenizer

    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    check_local_data(loaded)
    plan, source, *_ = build_plan(loaded, console, to_train=False, strict=strict)
    tokenizer = load_tokenizer(source, console.note)
    dropped = DroppedRows(PAGE_DROPPED_ROWS) if page else None
    parts = prepare_tables(plan.dataset, tokenizer, dropped=dropped, **prepare_options(plan, console.note))
    tables = {"train": parts.train} | ({"eval": parts.eval} if parts.eval is not None else {})
    audits = {part: audit(table, parts.report.max_length) for part, table in tables.items()}
    shown, no_pairs = (
        pairs_of_rows(plan, parts, tokenizer, rows) if rows else ({"train": _first(parts.train, show)}, {})
    )
    in_page = shown if rows else {part: _first(table, show or PAGE_PAIRS) for part, table in tables.items()}
    return DataInspection(
        plan.name,
        parts.report,
        audits,
        _count_steps(plan, len(parts.train)),
        list(spans_of_pairs(plan, parts, shown)),
        _loss_on_prompt(plan),
        no_pairs,
        page_pairs=[] if dropped is None else list(_page_pairs(plan, parts, in_page)),
        page_dropped=[] if dropped is None else dropped.rows,
    )


def prepare_options(plan: Plan, note: Callable[[str], None]) -> PrepareOptions:
    """How ``prepare_tables`` prepares the pairs as the training of ``plan`` does."""
    from orpo_cli.data.prepare import PrepareOptions

    return PrepareOptions(
        max_length=plan.training["max_length"],
        max_prompt_length=plan.dataset.max_prompt_length,
        note=note,
        pairs_needed=plan.total_pairs(),
    )


def _loss_on_prompt(plan: Plan) -> bool:
    return bool(plan.training.get("loss_on_prompt", True))


def _page_pairs(plan: Plan, parts: PairTables, tables: dict[str, PairTable]) -> Iterator[dict[str, Any]]:
    from orpo_cli.data.table import PARTS

    for part, table in tables.items():
        full = zip(*(table.full_token_counts(name).tolist() for name in PARTS), strict=True)
        for lengths, pair in zip(full, spans_of_pairs(plan, parts, {part: table}), strict=True):
            yield {**pair, "full": list(lengths)}


def _first(table: PairTable, count: int) -> PairTable:
    return table.select(range(min(count, len(table))))


def spans_of_pairs(plan: Plan, parts: PairTables, tables: Mapping[str, PairTable]) -> Iterator[dict[str, Any]]:
    """Part, number, row name and token spans of each pair of ``tables``, which are by part."""
    from orpo_cli.data.token_spans import token_spans

    for part, table in tables.items():
        for pair in table.dataset() if len(table) else ():
            spans = token_spans(pair, parts.encoder, loss_on_prompt=_loss_on_prompt(plan))
            yield {"part": part, "pair": pair["pair"], "row": pair["row"], **spans}


def pairs_of_rows(
    plan: Plan, parts: PairTables, tokenizer: PreTrainedTokenizerBase, rows: Sequence[str]
) -> tuple[dict[str, PairTable], dict[str, str]]:
    """Tables of the pairs with these numbers or names, or of all pairs of a row, by part.

    A name may have the folder of the file before it. The second value: the dropped rows, each with a text that says why. Raises
    UsageError for a row that does not exist.
    """
    from orpo_cli.data.dropped_rows import DropsOfRows
    from orpo_cli.data.prepare import prepare_tables

    found, missing = dict[str, list[int]](), list[str]()
    for row in rows:
        positions = _positions_of_row(parts, row) or _positions_of_row(parts, _without_folder(row))
        for part, each in positions.items():
            found.setdefault(part, []).extend(each)
        if not positions:
            missing += dict.fromkeys((row, _without_folder(row)))
    drops = DropsOfRows(names=missing)
    if not all(map(str.isdecimal, missing)) and parts.report.dropped:  # the cache has no drops: the rows are read again
        prepare_tables(plan.dataset, tokenizer, dropped=drops, **prepare_options(plan, lambda _: None))
    tables = {"train": parts.train, "eval": parts.eval}
    shown = {part: table.select(found[part]) for part, table in tables.items() if part in found and table is not None}
    dropped = {row: _drop_text(row, drops.rejections[row]) for row in missing if row in drops.rejections}
    if unknown := [row for row in missing if not {row, _without_folder(row)} & dropped.keys() and row in rows]:
        raise _unknown_row_error(parts, unknown[0])
    return shown, dropped


def _without_folder(row: str) -> str:
    """The name of a row of a file that is given with its folder: of ``../train.jsonl:17`` the last part. Rows of a folder have one in their name."""
    return row.rpartition("/")[2] if row.rpartition("/")[2].rpartition(":")[2][:1].isdigit() else row


def _positions_of_row(parts: PairTables, row: str) -> dict[str, list[int]]:
    """Positions of the pair with this number or name, or of all pairs of a row, by its part; empty where there is none."""
    from orpo_cli.data.turns import names_of_pair

    for part, table in {"train": parts.train, "eval": parts.eval}.items():
        if not table:
            continue
        found: dict[int, int] = {}  # number of a pair → its first position: a source weight repeats pairs
        for position, (number, name) in enumerate(zip(table.pair_numbers.tolist(), table.row_names(), strict=True)):
            if number == int(row) if row.isdecimal() else row in names_of_pair(name):
                found.setdefault(number, position)
        if found:
            return {part: list(found.values())}
    return {}


def _drop_text(row: str, rejections: list[RowRejected]) -> str:
    """Why a row was dropped, and the remedy."""
    from orpo_cli.data.filters import REASONS, REMEDIES

    texts = [f"{each.reason}: {REASONS[each.reason]}{each.detail and f' ({each.detail})'}" for each in rejections]
    remedies = [each.remedy or REMEDIES.get(each.reason, "") for each in rejections]
    why = f"row {row}: no pair, because the row is dropped as {'; '.join(dict.fromkeys(texts))}."
    return " ".join((why, *dict.fromkeys(filter(None, remedies))))


def _unknown_row_error(parts: PairTables, row: str) -> UsageError:
    """The error about ``--row``: which numbers and names there are."""
    last = max(int(table.pair_numbers.max()) for table in (parts.train, parts.eval) if table)
    example = parts.train.select([0]).row_names()[0]
    return UsageError(
        f"--row {row}: there is no pair of this number or row name among the training and held-out pairs.",
        remedy=f"Give a number from 0 to {last}, or a name such as {example}.",
    )


def _count_steps(plan: Plan, pairs: int) -> dict[str, Any]:
    """Pairs per optimizer step, steps per epoch, and steps and epochs of the run."""
    in_epoch, steps = steps_per_epoch(plan, pairs), count_steps(plan, pairs)
    return {
        "pairs_per_step": plan.launch.pairs_per_step,
        "steps_per_epoch": in_epoch,
        "steps": steps,
        "epochs": round(steps / in_epoch, 2) if in_epoch else 0.0,
    }
