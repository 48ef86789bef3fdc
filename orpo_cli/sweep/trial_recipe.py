"""Recipes of trials: the values of each are validated before any trial starts, and errors name the option of the value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.eval_save_defaults import eval_strategy
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.placeholders import load_complete_recipe
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.nodes import COMMAND_LINE
from orpo_cli.sweep.search_space import SearchSpace, override
from orpo_cli.sweep.trials import Trial

EVALUATIONS = 4  # of a trial, where the sweep decides
SCHEDULES_BY_EVALUATION = ("reduce_lr_on_plateau", "greedy")


def load_with_values(source: str, overrides: Sequence[str], space: SearchSpace, *, strict: bool) -> LoadedRecipe:
    """The recipe of the sweep, after every listed value and both ends of every range are validated in it, one at a time.

    Raises RecipeError with the problems of all values.
    """
    loaded = load_complete_recipe(source, overrides, strict=strict)
    known = set(loaded.warnings)
    problems = [
        problem
        for key, part in space.parts.items()
        for value in part.values
        for problem in _problems_of(source, overrides, [override(key, value)], part.option, strict=strict)
        if problem not in known
    ]
    _raise_errors(problems, strict=strict)
    return replace(loaded, warnings=(*loaded.warnings, *dict.fromkeys(problems)))


def load_trials(source: str, overrides: Sequence[str], trials: Iterable[Trial], *, strict: bool) -> list[LoadedRecipe]:
    """The recipe of each trial. Raises RecipeError for values that are valid alone and not together; it names the trial."""
    loaded: list[LoadedRecipe] = []
    found: dict[Problem, list[str]] = {}
    for trial in trials:
        try:
            loaded.append(load_recipe(source, [*overrides, *trial.overrides()], strict=strict))
        except RecipeError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(trial.name)
    problems = [
        replace(
            problem, message=f"{problem.message} (trial {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
        )
        for problem, names in found.items()
    ]
    _raise_errors(problems, strict=strict)
    return loaded


def sweep_overrides(recipe: Recipe, *, early_stop: bool) -> tuple[list[str], list[str]]:
    """What a sweep changes in the recipe of every trial, as arguments of ``--set``; and the reasons.

    Evaluations change neither the steps nor the result, unless the recipe makes it depend on them: then they stay.
    """
    changes, reasons = [], []
    training = recipe.training
    if training.push_to_hub:
        changes.append("training.push_to_hub=false")
        reasons.append("the trials are not pushed to the hub: all would have the same repository")
    strategy = eval_strategy(recipe)[0]
    if recipe.dataset.eval is None or _result_depends_on_evaluations(recipe):
        return changes, reasons
    if early_stop and strategy in ("no", "epoch"):
        changes += ["training.eval_strategy=steps", f"training.eval_steps={1 / EVALUATIONS}"]
        reasons.append(f"each trial is evaluated {EVALUATIONS} times, to compare the trials at the same step")
    elif strategy == "no":
        changes.append("training.eval_strategy=epoch")
        reasons.append("each trial is evaluated after each epoch, to compare the trials")
    return changes, reasons


def _result_depends_on_evaluations(recipe: Recipe) -> bool:
    training = recipe.training
    timing = (training.eval_strategy, training.eval_steps, training.save_strategy, training.save_steps)
    best = training.load_best_model_at_end
    loads_best = best if best is not None else all(each is None for each in timing)  # the default, see the plan
    by_evaluation = training.lr_scheduler_type in SCHEDULES_BY_EVALUATION or training.save_strategy == "best"
    return bool(loads_best or by_evaluation) and eval_strategy(recipe)[0] != "no"


def _problems_of(
    source: str, overrides: Sequence[str], changes: Sequence[str], option: str, *, strict: bool
) -> Iterator[Problem]:
    """The problems of a recipe with changed values: those of the changes name the option of the sweep."""
    try:
        problems = load_recipe(source, [*overrides, *changes], strict=strict).warnings
    except RecipeError as error:
        problems = error.problems
    except UsageError as error:
        message = error.message.replace(f"{COMMAND_LINE} {changes[-1]}", f"{option} {changes[-1]}")
        raise UsageError(message, remedy=error.remedy) from error
    for problem in problems:
        yield replace(problem, file=option) if problem.file == COMMAND_LINE else problem


def _raise_errors(problems: Sequence[Problem], *, strict: bool) -> None:
    if any(strict or each.severity == "error" for each in problems):
        raise RecipeError(list(dict.fromkeys(problems)))
