"""Held-out pairs: the preference pairs that a model is evaluated on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.errors import DataError, UsageError
from orpo_cli.evaluation.eval_target import EvalTarget
from orpo_cli.memory_dataset import source_label
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema import DatasetSection, Source
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS
from orpo_cli.rundir import RunDir, near_run_remedy


@dataclass(frozen=True)
class HeldOutPairs:
    """Rows of ``data.prepare`` and their source."""

    rows: list[dict[str, Any]]
    source: str  # "held-out" or the path
    available: int  # rows before max_samples
    same_as_in_training: bool | None = None  # whether training held out the same token ids; None where unknown


def check_pairs_available(plan: Plan | None, data: str | None, name: str) -> None:
    """Raise UsageError where no pairs to evaluate ``name`` on are given or held out. Called before a model is loaded."""
    if data is not None:
        data.encode()  # raises UnicodeEncodeError for a name that is not UTF-8
    if data is None and plan is None:
        raise UsageError(
            f"{name} is not a run directory, and a model that is not a run has no held-out pairs.",
            remedy=near_run_remedy(
                name, "Give the output_dir of an `orpo train`, or the pairs: --data FILE (or a hub dataset)."
            ),
        )
    if data is None and plan is not None and plan.dataset.eval is None:
        raise UsageError(
            f"the run {plan.name} has no held-out pairs.",
            remedy="Give pairs with --data FILE; next time set dataset.eval, for example {test_size: 0.05}.",
        )
    if data is not None and data.startswith((".", "/", "~")) and not Path(data).expanduser().exists():
        from orpo_cli.data.sources.files import may_be_data

        kinds = "Give preference pairs: jsonl, json, csv, parquet."
        raise DataError(
            f"--data {data}: no such file or folder.", remedy=near_path_remedy(Path(data), kinds, may_be_data)
        )
    if data is not None:
        _check_columns(_source_of(plan, data))


def _source_of(plan: Plan | None, data: str) -> Source:
    """Source of ``data``: with the columns and labels of a training source of the run, where the file has those columns."""
    from orpo_cli.data.first_rows import has_columns

    path = Path(data).expanduser()
    source = Source(path=str(path) if data.startswith("~") else data)
    for trained in plan.dataset.train if plan is not None else ():
        if trained.columns and has_columns(path, trained):
            return source.model_copy(
                update={"columns": trained.columns, "labels": trained.labels, "format": trained.format}
            )
    return source


def _check_columns(source: Source) -> None:
    """Raise DataError where the first rows of a local file are no pairs. There is no recipe in which columns could be mapped."""
    from orpo_cli.data.first_rows import check_first_rows, propose_for

    absolute = source.model_copy(update={"path": str(Path(source.path).absolute())})
    if not Path(source.path).is_file():
        return
    try:
        check_first_rows(absolute)
    except DataError as error:
        if not (mapping := propose_for(Path(source.path))):
            raise
        renamed = ", ".join(f"{name} to {target}" for target, name in mapping.items() if target != name)
        remedy = f"Rename these columns of the file: {renamed}. A run whose recipe has `columns:` for them needs no other names."
        raise DataError(error.message, remedy=remedy) from error


def load_held_out_pairs(
    target: EvalTarget,
    *,
    data: str | None = None,
    max_samples: int | None = None,
    max_length: int | None = None,
    note: Callable[[str], None],
) -> HeldOutPairs:
    """Pairs of ``data``, or else the held-out pairs of the target's run, tokenized as in training.

    ``max_length`` (tokens) is for a single model; a run keeps that of its training. Raises UsageError or DataError.
    """
    from orpo_cli.data.prepare import prepare, prepare_eval

    check_pairs_available(target.plan, data, target.name)
    given = None if data is None else _source_of(target.plan, data)
    if given is not None and given.columns:
        from orpo_cli.data.formats.prompt_columns import columns_line

        note(f"{data}: {columns_line(given.columns)}, as in the recipe of the run")
    if given is not None and target.trained_as_text:
        given = given.model_copy(update={"format": "text"})
    dataset, lengths = _dataset_and_lengths(target.plan, given, max_length)
    if data is None:
        enough = target.plan.total_pairs() if target.plan is not None else None
        held_out = prepare_eval(dataset, target.tokenizer, **lengths, note=note, pairs_needed=enough)
        pairs, report = held_out.eval, held_out.report
    else:
        prepared = prepare(dataset, target.tokenizer, **lengths, note=note)
        pairs, report = prepared.train, prepared.report
    for source in report.sources:
        for line in source.lines():
            note(line)
    rows = list(pairs.select(range(min(max_samples or len(pairs), len(pairs)))))
    same = None if data is not None else _same_as_in_training(target.rundir, report.fingerprints["eval"])
    return HeldOutPairs(
        rows=rows, source=source_label(data or "held-out"), available=len(pairs), same_as_in_training=same
    )


def _same_as_in_training(rundir: RunDir | None, fingerprint: str) -> bool | None:
    """Whether the run's data report has the same fingerprint of held-out pairs; None where it has none."""
    known = None if rundir is None else rundir.read_data_report().get("fingerprints", {}).get("eval")
    return None if known is None else bool(known == fingerprint)


def _dataset_and_lengths(
    plan: Plan | None, given: Source | None, max_length: int | None
) -> tuple[DatasetSection, dict[str, int]]:
    """Dataset section, and max_length and max_prompt_length (tokens). ``given``: pairs that are not those of the run."""
    train = None if given is None else [given]
    if plan is None:
        assert train is not None, "refused before"
        max_length = max_length or int(LIBRARY_DEFAULTS["max_length"])
        return DatasetSection(train=train), {"max_length": max_length, "max_prompt_length": max(1, max_length // 2)}
    trained = plan.training["max_length"]
    if max_length is not None:
        raise UsageError(
            f"--max-length does nothing for the run {plan.name}: it keeps the {trained} it was trained with.",
            remedy="Leave --max-length out.",
        )
    dataset = plan.dataset if train is None else plan.dataset.model_copy(update={"train": train, "eval": None})
    return dataset, {"max_length": trained, "max_prompt_length": plan.dataset.max_prompt_length}
