"""Inputs of a run (pairs, tokenizer, base weights), compared with those that a resumed run was started with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.checkpoint_manifest import checkpoint_step
from orpo_cli.errors import DataError, UsageError
from orpo_cli.estimate.batching import count_steps, steps_per_epoch
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.report.console import Console
from orpo_cli.report.plan_steps import few_steps_warnings
from orpo_cli.rundir import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from orpo_cli.data.prepare import PreparedData
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.weight_files import BaseDigests
    from orpo_cli.training.fingerprints import Fingerprints
    from orpo_cli.training.resume import Input


def prepare_pairs(
    plan: Plan, tokenizer: PreTrainedTokenizerBase, console: Console, *, is_smoke: bool = False
) -> PreparedData:
    """Read and tokenize the pairs of a plan, and report their counts; without advice on them in a smoke run.

    Raises DataError where they are too few for a batch, and incomplete ones are dropped.
    """
    from orpo_cli.data.audit import data_warnings
    from orpo_cli.data.prepare import prepare

    pairs = prepare(
        plan.dataset,
        tokenizer,
        max_length=plan.training["max_length"],
        max_prompt_length=plan.dataset.max_prompt_length,
        note=console.note,
        pairs_needed=plan.total_pairs(),
    )
    for line in pairs.report.lines(has_advice=not is_smoke):
        console.note(line)
    if not is_smoke:  # the lines above and the plan have the other warnings
        found = data_warnings(pairs.tables, pairs.report)
        console.problems([each for each in found if each.code == "length-predicts-preference"])
    if not steps_per_epoch(plan, len(pairs.train)):
        raise DataError(
            f"dataset.train: its {len(pairs.train)} pairs do not fill a batch, and training.dataloader_drop_last drops it.",
            remedy="Set training.dataloader_drop_last=false, or lower training.per_device_train_batch_size.",
        )
    return pairs


def record_data(rundir: RunDir, plan: Plan, pairs: PreparedData) -> None:
    """Write the data report, and add what it warns of, and too few steps, to the warnings of run.json."""
    from orpo_cli.data.audit import data_warnings

    rundir.write_data_report(pairs.report.as_dict())
    count = len(pairs.train)
    for each in (
        *data_warnings(pairs.tables, pairs.report),
        *few_steps_warnings(plan, count_steps(plan, count), count),
    ):
        rundir.add_warning(each.code, each.record_text(), each.remedy)


def refuse_before_load(
    rundir: RunDir, found: Fingerprints, pairs: PreparedData, weights: BaseDigests, allow_changed: Sequence[Input]
) -> None:
    """Compare all inputs but the weights with those of the run: loading the model may take minutes. Raises InputsChanged."""
    from orpo_cli.training.fingerprints import refuse_changed_inputs
    from orpo_cli.training.resume import InputsChanged

    try:
        refuse_changed_inputs(rundir, found, pairs, allow_changed)
    except InputsChanged:  # list all changes at once
        refuse_changed_inputs(rundir, {**found, "weights": weights.result()}, pairs, allow_changed)


def accept_inputs(
    rundir: RunDir,
    found: Fingerprints,
    pairs: PreparedData,
    checkpoint: Path | None,
    console: Console,
    allow_changed: Sequence[Input],
) -> None:
    """Compare the inputs with those of a resumed run, and record changes that are allowed. Raises InputsChanged for another."""
    from orpo_cli.training.fingerprints import refuse_changed_inputs
    from orpo_cli.training.resume import missing_fingerprints, set_aside_later

    step = 0 if checkpoint is None else checkpoint_step(checkpoint) or 0
    if step and (missing := missing_fingerprints(rundir)):
        console.note(f"{rundir.root} has no fingerprints of {', '.join(missing)}: a change of these is not noticed")
    changes = refuse_changed_inputs(rundir, found, pairs, allow_changed)
    for change in changes:
        console.warn(f"accepted: {change.text}")
    if changes:
        records = [{"step": step, "kind": each.kind, "change": each.text} for each in changes]
        rundir.write_run(changed_inputs=[*rundir.read_run().get("changed_inputs", []), *records])
    if checkpoint is not None and (folder := set_aside_later(rundir, checkpoint)) is not None:
        console.note(f"later checkpoints and the metrics until now are moved to {folder}")


def record_moves(
    rundir: RunDir, plan: Plan, source: ModelSource[ModelPlan], console: Console, allow_changed: Sequence[Input]
) -> None:
    """Write the new paths of a finished run's inputs to plan.json, for the commands that need its base.

    Raises UsageError where their content is another, InputsChanged where it has changed in the old place.
    """
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.model.weight_files import BaseDigests
    from orpo_cli.training.fingerprints import fingerprints, refuse_changed_inputs
    from orpo_cli.training.moved_inputs import follow_moves
    from orpo_cli.training.resume import InputsChanged, recorded_fingerprints

    found, moved = follow_moves(rundir.read_plan(), plan, recorded_fingerprints(rundir))
    if not moved:
        _refuse_changed_data(rundir, plan, source, console, allow_changed)
        return
    with BaseDigests(source) as weights:
        tokenizer = load_tokenizer(source, console.note)
        pairs = prepare_pairs(plan, tokenizer, console)
        now = {**fingerprints(tokenizer, pairs), "weights": weights.result()}
    try:
        refuse_changed_inputs(rundir, now, pairs, ())
    except InputsChanged as error:
        raise UsageError(
            error.message, remedy="Use the original inputs, or start a new run: --set output_dir=DIR."
        ) from error
    rundir.write_plan(found)
    console.note(f"{rundir.plan} has the new places of the inputs:\n  " + "\n  ".join(moved))


def _refuse_changed_data(
    rundir: RunDir, plan: Plan, source: ModelSource[ModelPlan], console: Console, allow_changed: Sequence[Input]
) -> None:
    """Compare the pairs of a finished run with those of files that have changed since; files that are gone are not needed."""
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.training.fingerprints import fingerprints, refuse_changed_inputs
    from orpo_cli.training.resume import recorded_fingerprints

    recorded = set((recorded_fingerprints(rundir).get("data") or {}).get("sources", {}).values())
    if not recorded or set(_file_digests(plan)) <= recorded:
        return
    tokenizer = load_tokenizer(source, console.note)
    pairs = prepare_pairs(plan, tokenizer, console)
    for change in refuse_changed_inputs(rundir, fingerprints(tokenizer, pairs), pairs, allow_changed):
        console.warn(f"accepted: {change.text}")


def _file_digests(plan: Plan) -> Iterator[str]:
    """Digests of the local data files that exist."""
    from orpo_cli.data.sources.source import open_source

    dataset = plan.dataset
    for each in (*dataset.train, *(dataset.eval if isinstance(dataset.eval, list) else [])):
        if each.streaming or not Path(each.path).exists():
            continue
        with suppress(DataError, OSError), open_source(each, each.path, lambda _: None) as found:
            if found.fingerprint is not None:
                yield found.fingerprint
