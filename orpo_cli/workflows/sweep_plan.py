"""Plan of a sweep: its trials, every value of which is validated before anything starts, and the preparation of their pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli.errors import OrpoError, UsageError
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.source.nodes import plain_values
from orpo_cli.recipe.source.recipe_files import STANDARD_INPUT
from orpo_cli.recipe.source.rerunnable_recipe import rerunnable_recipe
from orpo_cli.recipe.source.yaml_reader import read_yaml
from orpo_cli.recipe.source.yaml_writer import inline_yaml
from orpo_cli.report.console import Console
from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RunDir
from orpo_cli.secret_values import mask_secrets
from orpo_cli.sweep.optuna_sampler import Sampler, require_optuna
from orpo_cli.sweep.record import (
    Definition,
    State,
    SweepDir,
    TrialState,
    merge_trials,
    refuse_changed_recipe,
    refuse_changes,
)
from orpo_cli.sweep.scores import Metric
from orpo_cli.sweep.search_space import SearchSpace, Values, parse_search_space
from orpo_cli.sweep.trial_process import TrialCommand
from orpo_cli.sweep.trial_recipe import load_trials, load_with_values, sweep_overrides
from orpo_cli.sweep.trials import Trial, name_trials
from orpo_cli.workflows.plan import build_plan
from orpo_cli.workflows.run_inputs import prepare_pairs


@dataclass(frozen=True)
class SweepRequest:
    """What `orpo sweep` was asked for. ``random``: the number of trials that are drawn; None: all combinations."""

    recipe: str
    overrides: Sequence[str]
    grids: Sequence[str]
    ranges: Sequence[str]
    random: int | None
    sampler: Sampler
    seed: int
    metric: Metric
    early_stop: bool
    stop_from: float
    jobs: int
    output: Path | None
    resume: bool
    strict: bool


@dataclass(frozen=True)
class PlannedSweep:
    """A validated sweep. ``changes``: what it changes in the recipe of every trial, besides the values, and ``reasons`` for it."""

    request: SweepRequest
    loaded: LoadedRecipe
    space: SearchSpace
    combinations: list[Values]  # empty where a sampler of Optuna proposes them
    changes: list[str]
    reasons: list[str]
    sweep: SweepDir

    @property
    def adaptive(self) -> bool:
        """Whether the values of a trial depend on the scores of those before it."""
        return self.request.random is not None and self.request.sampler is not Sampler.RANDOM

    @property
    def overrides(self) -> list[str]:
        """The overrides of all trials."""
        return [*self.request.overrides, *self.changes]

    @property
    def definition(self) -> Definition:
        """What sweep.json has of it."""
        request, random = self.request, self.request.random
        values = self.loaded.recipe.model_dump(mode="json", exclude_unset=True)
        return Definition(
            recipe=request.recipe, overrides=list(request.overrides), recipe_values=mask_secrets(values),
            space=self.space.as_json(), random=random, sampler=None if random is None else request.sampler.value,
            seed=None if random is None else request.seed, metric=request.metric.value,
            early_stop=request.early_stop, stop_from=request.stop_from,
        )  # fmt: skip

    def command(self) -> TrialCommand:
        """The command of the trials."""
        return TrialCommand(self.request.recipe, self.overrides)


def plan_sweep(request: SweepRequest, console: Console) -> PlannedSweep:
    """Validate the options, every value and every combination. Raises UsageError, and RecipeError with all problems."""
    space = parse_search_space(request.grids, request.ranges)
    _check_options(request, space)
    loaded = load_with_values(request.recipe, request.overrides, space, strict=request.strict)
    console.problems(loaded.warnings)
    if loaded.file == STANDARD_INPUT:
        raise UsageError(
            "a sweep cannot read its recipe from standard input: every trial reads it.",
            remedy="Write it to a file, and give its path.",
        )
    launch = loaded.recipe.launch
    if launch.num_machines > 1:
        raise UsageError(
            f"launch.num_machines is {launch.num_machines}, and a sweep trains on one machine.",
            remedy="Set launch.num_machines to 1, or submit the trials one by one: `orpo submit`.",
        )
    if request.jobs > 1 and launch.num_processes not in ("auto", 1):
        raise UsageError(
            f"--jobs {request.jobs} gives each trial one device, and launch.num_processes is {launch.num_processes}.",
            remedy="Leave out --jobs, or set launch.num_processes to auto.",
        )
    if request.random is None:
        combinations = list(space.grid())
    elif request.sampler is Sampler.RANDOM:
        combinations = space.sample(request.random, request.seed)
        if len(combinations) < request.random:
            console.note(f"--random {request.random}: there are only {len(combinations)} different combinations")
    else:
        require_optuna(request.sampler)
        combinations = []
    changes, reasons = sweep_overrides(loaded.recipe, early_stop=request.early_stop)
    trials = name_trials(combinations)
    load_trials(request.recipe, request.overrides, trials, strict=request.strict)
    load_trials(
        request.recipe, [*request.overrides, *changes], trials, strict=False
    )  # a change may leave a setting unused
    output = request.output or loaded.output_dir.with_name(f"{loaded.output_dir.name}-sweep")
    sweep = SweepDir(output.expanduser().absolute())
    return PlannedSweep(request, loaded, space, combinations, changes, reasons, sweep)


def planned_trials(planned: PlannedSweep) -> list[TrialState]:
    """The trials, with the state of those that the sweep has already. Raises UsageError where it is another sweep or none."""
    sweep = planned.sweep
    if not sweep.is_sweep():
        trials = name_trials(planned.combinations)
        if sweep.root.exists() and (
            not sweep.root.is_dir() or any(each != sweep.lock for each in sweep.root.iterdir())
        ):
            return _recognized_trials(planned, trials)
        return [TrialState(each) for each in trials]
    if not planned.request.resume:
        raise UsageError(
            f"{sweep.root} has a sweep already, and --resume is never.",
            remedy="Continue it with --resume auto, or start another one: --output DIR.",
        )
    definition, earlier = sweep.read(adaptive=planned.adaptive)
    refuse_changes(definition, planned.definition, sweep.root)
    return earlier if planned.adaptive else merge_trials(earlier, planned.combinations, sweep.root)


def _recognized_trials(planned: PlannedSweep, trials: Sequence[Trial]) -> list[TrialState]:
    """The trials of a sweep whose sweep.json was removed, with the state of its runs.

    Raises UsageError where the directory has something else than runs of these trials, each with the recipe of its trial.
    """
    sweep, remedy = planned.sweep, "Choose another directory: --output DIR."
    if planned.adaptive or not planned.request.resume or not sweep.root.is_dir() or not sweep.has_only_trials():
        raise UsageError(f"{sweep.root} is not empty, and is not a sweep.", remedy=remedy)
    states = {each.name: TrialState(each) for each in trials}
    for run in sweep.run_folders():
        if run.name not in states:
            raise UsageError(f"{run} is a trial that the command does not ask for.", remedy=remedy)
        state = states[run.name]
        if not _has_recipe(run, state.trial, planned):
            raise UsageError(
                f"{run} was trained with another recipe, or another --set or --early-stop, than that of this command.",
                remedy=f"Restore it. {remedy}",
            )
        if RunDir(run).status() == FINISHED:
            state.state = State.FINISHED
    return list(states.values())


def _has_recipe(run: Path, trial: Trial, planned: PlannedSweep) -> bool:
    """Whether a run has the recipe with which this sweep would train the trial."""
    own = [f"name={inline_yaml(trial.name)}"]
    loaded = load_recipe(planned.request.recipe, [*planned.overrides, *trial.overrides(), *own])
    texts = RunDir(run).read_recipe(), rerunnable_recipe(loaded)
    found, wanted = (plain_values(read_yaml(each, str(RunDir(run).recipe))) for each in texts)
    return bool(found == wanted)


def prepare_trials(planned: PlannedSweep, console: Console) -> dict[str, Any]:
    """Check the plan of every trial on this machine, and prepare the pairs, once for all trials that have the same.

    A process of its own does this, so that the memory of the libraries is free again for the trials.
    """
    from orpo_cli.model.tokenizer import load_tokenizer

    trials = name_trials(planned.combinations) or [Trial("the recipe", {})]
    prepared: list[str] = []
    for number, trial in enumerate(trials):
        loaded = load_recipe(planned.request.recipe, [*planned.request.overrides, *trial.overrides()])
        quiet = console if number == 0 else Console(log_only=True)
        try:
            plan, source, *_ = build_plan(loaded, quiet, to_train=True, strict=planned.request.strict)
            sizes = plan.training["max_length"], plan.total_pairs()
            key = json.dumps([plan.model.model_dump(mode="json"), plan.dataset.model_dump(mode="json"), sizes])
            if key not in prepared:
                prepared.append(key)
                prepare_pairs(plan, load_tokenizer(source, console.note), console)
        except OrpoError:
            console.note(f"trial {trial.name}:")
            raise
    return {"status": "ok", "trials": len(trials), "prepared": len(prepared)}


def check_recipe(planned: PlannedSweep) -> None:
    """Raise UsageError where the recipe has been edited since the sweep has validated it."""
    request = planned.request
    loaded = load_recipe(request.recipe, request.overrides)
    now = replace(planned, loaded=loaded).definition.recipe_values
    refuse_changed_recipe(planned.definition.recipe_values, now, planned.sweep.root)


def _check_options(request: SweepRequest, space: SearchSpace) -> None:
    if not space.parts:
        raise UsageError(
            "nothing to vary.",
            remedy="Give values: --grid training.learning_rate=1e-5,5e-5, or a --range and --random N.",
        )
    if request.ranges and request.random is None:
        raise UsageError(
            "--range has no list of values, so that the number of trials is not known.", remedy="Add --random N."
        )
    if request.sampler is not Sampler.RANDOM and request.random is None:
        raise UsageError("--sampler does nothing without --random.", remedy="Add --random N, or leave it out.")
