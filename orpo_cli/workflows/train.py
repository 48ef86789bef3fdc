"""Training workflow (`orpo train`): the plan of a recipe, a new or resumed run, and its training in one process or several."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli import interruption
from orpo_cli.atomic import remove_leftovers
from orpo_cli.checkpoint_manifest import checkpoint_step
from orpo_cli.errors import Problem, UsageError
from orpo_cli.launch.command import MachineCommand, machine_commands
from orpo_cli.launch.environment import refuse_other_launch
from orpo_cli.planning.launch import is_other_machine
from orpo_cli.planning.plan import ModelPlan, Plan
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.source.rerunnable_recipe import overridden_values, rerunnable_recipe
from orpo_cli.report.console import Console
from orpo_cli.run_attempts import FINISHED
from orpo_cli.run_creation import create_run, raise_if_in_use
from orpo_cli.run_log import run_log
from orpo_cli.run_records import warning_record
from orpo_cli.run_status import begin_attempt, record_result
from orpo_cli.rundir import RecipeTexts, RunDir
from orpo_cli.temporary_directory import remove_dead_directories
from orpo_cli.workflows.attempt_end import recording_interruption
from orpo_cli.workflows.plan import build_plan, check_local_data, estimate_record, load_recipe_reporting, report_plan
from orpo_cli.workflows.repair_run import repair_plan, repair_records
from orpo_cli.workflows.run_inputs import record_moves
from orpo_cli.workflows.train_plan import train_plan
from orpo_cli.workflows.train_ranks import train_on_other_machine, train_on_ranks
from orpo_cli.workflows.train_worker import JoinedRank, lead_ranks

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.training.resume import Input


def train_recipe(
    recipe: str | LoadedRecipe,
    overrides: Sequence[str] | None,
    console: Console,
    *,
    resume: str,
    strict: bool,
    allow_changed: Sequence[Input] = (),
    rank: JoinedRank | None = None,
    sweep: tuple[str, str] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    shows_next_commands: bool = True,
) -> RunDir:
    """Train a recipe, or resume its run, and return the finished run.

    ``resume`` is ``never``, ``auto`` (from the last checkpoint) or the path of a checkpoint. ``allow_changed``: the inputs
    that may differ from those that a resumed run was started with. ``rank``: this process, where another launcher has started
    it as rank 0 of several. ``sweep``: directory of the sweep and name of the trial, for run.json. ``callbacks``: further ones
    for the trainer, which needs a training in this process. ``shows_next_commands``: whether to name the commands that come next.
    """
    if isinstance(recipe, LoadedRecipe):
        loaded = recipe
        console.problems(loaded.warnings)
    else:
        loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    if rank is None and is_other_machine(loaded.recipe.launch):
        return _train_on_other_machine(loaded, console, resume=resume, strict=strict)
    with ExitStack() as stack:
        rundir = stack.enter_context(RunDir(loaded.output_dir))
        if resume != "never" and rundir.is_run():
            rundir.acquire(console.note)  # before the libraries are imported, which takes seconds
            _refuse_missing_base(rundir, loaded)
        else:
            raise_if_in_use(rundir)
            check_local_data(loaded)  # a finished run that is resumed does not need its data
        planned = build_plan(loaded, console, to_train=True, strict=strict)
        plan, source = planned.plan, planned.source
        if callbacks and plan.launch.strategy != "single":
            raise UsageError(
                f"callbacks cannot be sent to the {plan.launch.num_processes} processes of this training.",
                remedy="Train in one process (launch.num_processes=1), or leave the callbacks out.",
            )
        if rundir.lock is not None:
            plan = _keep_step(rundir, plan)
        if rank is not None:
            refuse_other_launch(plan.launch, rank.ranks)
        stack.enter_context(recording_interruption(rundir))
        record = _attempt_record(loaded, plan, (*loaded.warnings, *planned.warnings))
        if isinstance(recipe, LoadedRecipe):  # a Python program, whose arguments are not those of orpo
            record["command"] = []
        checkpoint = open_run(rundir, loaded, plan, source, resume, console, record, allow_changed)
        if not rundir.attempt:
            from orpo_cli.training.resume import describe_finished

            console.note(describe_finished(rundir))
            _write_missing_card(rundir, console)
            return rundir
        if sweep is not None:
            rundir.write_run(sweep={"directory": sweep[0], "trial": sweep[1]})
        run_log.open(rundir.logs / f"attempt-{rundir.attempt}.log")
        done = 0 if checkpoint is None else checkpoint_step(checkpoint) or 0
        if (estimate := report_plan(planned._replace(plan=plan), console, done=done)) is not None:
            rundir.write_run(estimate=estimate_record(estimate))
        _remove_leftovers(rundir)
        train: Callable[..., None] = train_on_ranks
        if plan.launch.strategy == "single":
            train = partial(train_plan, callbacks=callbacks)
        if rank is not None:
            train = partial(lead_ranks, rank=rank)
        train(plan, source, rundir, checkpoint, console, allow_changed=allow_changed)
    report_run(rundir, plan, console, shows_next_commands=shows_next_commands)
    return rundir


def _train_on_other_machine(loaded: LoadedRecipe, console: Console, *, resume: str, strict: bool) -> RunDir:
    """Train on another machine than machine 0, which opens the run."""
    from orpo_cli.training.resume import describe_finished, has_steps_to_train

    rundir = RunDir(loaded.output_dir)
    plan, source, *_ = build_plan(loaded, console, to_train=True, strict=strict)
    is_finished = resume != "never" and rundir.is_run() and rundir.status() == FINISHED
    if is_finished and not has_steps_to_train(rundir, plan, resume):
        console.note(describe_finished(rundir))
        return rundir
    return train_on_other_machine(plan, source, console)


def _keep_step(rundir: RunDir, plan: Plan) -> Plan:
    """``plan`` with the pairs of a step of the run that is resumed, where another number of processes has changed them."""
    from orpo_cli.training.resumed_step import keep_pairs_per_step

    with suppress(UsageError):  # a damaged plan is repaired later
        return keep_pairs_per_step(rundir.read_plan(), plan)
    return plan


def _refuse_missing_base(rundir: RunDir, loaded: LoadedRecipe) -> None:
    """Raise UsageError where the local base of the run is gone, and the recipe does not give another place."""
    from orpo_cli.model.trained_model import refuse_missing_base
    from orpo_cli.planning.resolve import model_with_absolute_paths

    try:
        plan = rundir.read_plan()
    except UsageError:  # a damaged plan is repaired later
        return
    now = Path(model_with_absolute_paths(loaded).model_name_or_path)
    if now.name == Path(plan.model.model_name_or_path).name and not now.exists():
        refuse_missing_base(rundir, plan)


def _attempt_record(loaded: LoadedRecipe, plan: Plan, warnings: Sequence[Problem]) -> dict[str, Any]:
    """Fields of run.json: how the run was started last."""
    return {
        "command": sys.argv,
        "changed": {**overridden_values(loaded), **(loaded.in_memory or {})},
        "tags": plan.tags,
        "warnings": [warning_record(each.code, each.record_text(), each.remedy) for each in warnings],
    }


def open_run(
    rundir: RunDir,
    loaded: LoadedRecipe,
    plan: Plan,
    source: ModelSource[ModelPlan],
    resume: str,
    console: Console,
    record: Mapping[str, Any],
    allow_changed: Sequence[Input] = (),
) -> Path | None:
    """Begin an attempt, of a new run or of the one whose lock is held; the checkpoint to resume from (None: start at step 0).

    A finished run with nothing to train has no new attempt. Raises UsageError where the directory is in use, or ``resume``
    does not fit the run in it, or the data of a finished run have changed. ``record``: fields of run.json.
    """
    from orpo_cli.training.provenance import installed_versions
    from orpo_cli.training.resume import checkpoint_to_resume, has_steps_to_train, restore_later

    versions = installed_versions()
    texts = RecipeTexts(rerunnable_recipe(loaded), recipe_with_overrides(loaded))
    if rundir.lock is None:
        if resume not in ("never", "auto"):
            raise UsageError(
                f"--resume {resume}: there is no run in {rundir.root}.", remedy="Leave --resume out to start a run."
            )
        with interruption.uninterrupted():  # an interruption finds no run, or one that it can remove
            created = create_run(plan, texts, versions=versions, record=record, note=console.note)
            rundir.lock, rundir.attempt = created.lock, created.attempt
        return None
    restore_later(rundir)
    repair_records(rundir, console.warn)
    repair_plan(rundir, plan, texts, console.warn)
    damage = None
    if rundir.status() == FINISHED and not has_steps_to_train(rundir, plan, resume):
        damage = rundir.result_damage()
        if damage is None and resume != "auto":
            raise UsageError(
                f"--resume {resume}: {rundir.root} has finished, and would be trained to the same result again.",
                remedy="Train it longer (training.max_steps), or start a new run: --set output_dir=DIR.",
            )
        if damage is None:
            record_moves(rundir, plan, source, console, allow_changed)
            return None
        console.warn(f"the result of {rundir.root} is damaged: {damage}; it is restored")
    checkpoint = checkpoint_to_resume(rundir, plan, resume, console.warn)
    if damage is None and checkpoint is None and record_result(rundir):
        return None
    check_local_data(loaded)
    if damage is not None:
        rundir.set_aside_result()
    step = 0 if checkpoint is None else checkpoint_step(checkpoint) or 0
    if checkpoint is None:
        _start_over(rundir, texts)
        console.note(f"{rundir.root} has no checkpoint that can be used: starting from step 0")
    else:
        console.note(f"resuming from {checkpoint}")
    begin_attempt(rundir, from_step=step, versions=versions, record=record)
    rundir.new_recipe = texts
    if damage is not None:
        rundir.write_run(steps=None)  # if this attempt is killed, its result counts
    return checkpoint


def _start_over(rundir: RunDir, recipe: RecipeTexts) -> None:
    """Prepare a run that trained nothing that can be resumed for a start from step 0. Files of the user are kept."""
    if (result := rundir.finished_part()) is not None:
        rundir.return_result()
        raise UsageError(
            f"{rundir.root} has a result and no checkpoint: {result}.",
            remedy="Use another directory (--set output_dir=DIR), or move the result away.",
        )
    rundir.write_recipe(recipe)


def _write_missing_card(rundir: RunDir, console: Console) -> None:
    """Write the card of a run whose process was killed after the training had finished."""
    from orpo_cli.card.model_card import write_card

    if not rundir.card.exists():
        rundir.remove_partial_files()
        write_card(rundir)
        console.note(f"wrote {rundir.card}, which was missing")


def _remove_leftovers(rundir: RunDir) -> None:
    """Remove what killed commands left: half of a result, of a merge or of an export, and checkpoints that were pushed."""
    rundir.remove_partial_files()
    for folder in (rundir.root, rundir.export):
        remove_leftovers(folder)
    shutil.rmtree(rundir.staging, ignore_errors=True)
    remove_dead_directories()


def recipe_with_overrides(loaded: LoadedRecipe) -> str:
    """The recipe as written, with the overrides listed on top."""
    head = "".join(f"# --set {override}\n" for override in loaded.overrides)
    return head + loaded.files[0].text


def planned_commands(
    recipe: str, overrides: Sequence[str] | None, console: Console, *, strict: bool
) -> list[MachineCommand]:
    """The commands that start the processes of the plan, for `orpo train --dry-run`."""
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    plan = build_plan(loaded, console, to_train=False, strict=strict).plan
    return machine_commands(plan.launch, sys.argv[1:])


def report_run(rundir: RunDir, plan: Plan, console: Console, *, shows_next_commands: bool = True) -> None:
    """Print what the training did, and the commands that come next."""
    from orpo_cli.report.run_history import read_history
    from orpo_cli.report.run_summary import next_commands, summary_lines

    history = read_history(rundir.root)
    held_out = plan.dataset.eval is not None
    commands = {
        "generate RUN --compare" if held_out else "chat RUN --compare": "compare answers with the base",
        "eval RUN": "score the held-out pairs" if held_out else "",
        "report RUN": "see the curves in a browser",
        "merge RUN": "merge the adapter into the base" if plan.lora is not None else "",
    }
    width = console.err.width if console.shows_progress else None
    next_lines = next_commands(history, commands, width) if shows_next_commands else []
    for line in (*summary_lines(history, width), *next_lines):
        console.note(line)


def run_document(rundir: RunDir) -> dict[str, Any]:
    """The document that ``orpo train --json`` prints."""
    run = rundir.read_run()
    names = ("steps", "seconds", "final_metrics", "final_evaluation", *(["hub"] if "hub" in run else []))
    return {
        "status": run["status"],
        "run": str(rundir.root),
        "result": str(rundir.result()),
        **{name: run.get(name) for name in names},
    }
