"""Repair of a run whose files are damaged, before it is resumed: what other files of the run tell is written again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orpo_cli.atomic import unused_name
from orpo_cli.checkpoint_manifest import checkpoint_step, find_checkpoints
from orpo_cli.errors import UsageError
from orpo_cli.planning.plan import Plan
from orpo_cli.run_attempts import FINISHED, RUNNING, STATUSES
from orpo_cli.run_records import RunRecord, read_valid_fields, write_record
from orpo_cli.rundir import RecipeTexts, RunDir


def repair_records(rundir: RunDir, warn: Callable[[str], None]) -> None:
    """Write run.json again if it is damaged or lost, and rename other damaged records to NAME.damaged.

    Fields of run.json that are valid are kept: the next attempt needs the fingerprints and the earlier attempts.
    """
    try:
        rundir.read_run()
    except UsageError as error:
        status = FINISHED if _has_finished(rundir) else RUNNING
        record = read_valid_fields(rundir.run, RunRecord, name=rundir.root.name, status=status)
        if record["status"] not in STATUSES:
            record["status"] = status
        if record["status"] == FINISHED:
            record = {"steps": _last_step(rundir), **record}
        kept = _set_aside(rundir.run)
        write_record(rundir.run, record)
        state = (
            "that of a run that was killed"
            if record["status"] == RUNNING
            else f"that of a run that has {record['status']}"
        )
        lost = "" if record.get("attempts") else " Earlier attempts are not known."
        warn(f"{_sentence(error)}{kept} It is written again with its valid fields, as {state}.{lost}")
    for path, read in (
        (rundir.data_report, rundir.read_data_report),
        (rundir.evaluation, rundir.read_evaluation),
        (rundir.samples, rundir.read_samples),
        (rundir.pushes, rundir.read_pushes),
    ):
        try:
            read()
        except UsageError as error:
            warn(f"{_sentence(error)}{_set_aside(path)}")


def repair_plan(rundir: RunDir, plan: Plan, recipe: RecipeTexts, warn: Callable[[str], None]) -> None:
    """Write plan.json again from ``plan`` if it is damaged or lost, and the run was started with the same recipe.

    Raises UsageError where the recipe is another one: settings cannot be compared without the plan.
    """
    try:
        rundir.read_plan()
    except UsageError as error:
        if not _is_recipe_of(rundir, recipe):
            raise UsageError(
                f"{_sentence(error)} The recipe differs from {rundir.recipe}, so that the plan cannot be written again.",
                remedy="Resume with that recipe and its overrides, or start a new run: --set output_dir=DIR.",
            ) from error
        kept = _set_aside(rundir.plan)
        rundir.write_plan(plan)
        warn(f"{_sentence(error)}{kept} It is written again from the recipe, which is the one of the run.")


def _is_recipe_of(rundir: RunDir, recipe: RecipeTexts) -> bool:
    """Whether the run was started with this recipe. Runs of version 0.2.0 have the original one as recipe.yaml."""
    rerunnable, original = _read_text(rundir.recipe), _read_text(rundir.original_recipe)
    if original is None:
        return rerunnable == recipe.original and _read_text(rundir.composed) is None
    return original == recipe.original and _values(rerunnable) == _values(recipe.rerunnable)


def _values(text: str | None) -> Any:
    """The values of a recipe without comments, which name files as they were given; None where it cannot be read."""
    import yaml

    with suppress(yaml.YAMLError):
        return yaml.safe_load(text or "")
    return None


def _sentence(error: UsageError) -> str:
    return f"{error.message.rstrip('.')}."


def _set_aside(path: Path) -> str:
    """Rename a damaged file to NAME.damaged; the sentence that says so, empty for a file that is lost."""
    if not path.exists():
        return ""
    kept = unused_name(path.with_name(f"{path.name}.damaged"))
    path.rename(kept)
    return f" It is now {kept.name}."


def _has_finished(rundir: RunDir) -> bool:
    """Whether the result was saved after the last checkpoint."""
    results = [path for path in (rundir.adapter, rundir.model) if path.is_dir()]
    checkpoints = find_checkpoints(rundir.checkpoints)
    return any(not checkpoints or path.stat().st_mtime >= checkpoints[-1].stat().st_mtime for path in results)


def _last_step(rundir: RunDir) -> int | None:
    checkpoints = find_checkpoints(rundir.checkpoints)
    return rundir.last_logged_step() or (checkpoint_step(checkpoints[-1]) if checkpoints else None)


def _read_text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return None
