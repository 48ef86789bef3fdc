"""Messages about a dataset in memory: with the argument of the program in place of the file, and a remedy that Python can follow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import yaml

from orpo_cli.api.in_memory import SavedObject
from orpo_cli.errors import DataError, Problem, RecipeError
from orpo_cli.memory_dataset import ARGUMENTS

_COLUMNS = re.compile(r"`columns: (\{.*?\})`")
_RENAMED = re.compile(r"Rename these columns of the file: (.+?)\.(?= A run )")
_MISSING = re.compile(r"dataset(?:\.(train|eval)(?:\[\d+\])?(?:\.path)?)?")  # path of a missing key
_IN_RECIPE = " below the path of the source in the recipe"
_FIRST_ROW = re.compile(rf" \((rows from ({'|'.join(ARGUMENTS)}):\d+|its first rows)\)")


@contextmanager
def naming_datasets(saved: Mapping[str, SavedObject]) -> Iterator[None]:
    """Context in which a DataError about a saved dataset names its argument.

    ``saved``: by key of the recipe (``dataset.train``), or by "" where there is no recipe.
    """
    try:
        yield
    except DataError as error:
        error.message, error.remedy = _named(error.message, error.remedy, saved)
        error.args = (error.message,)
        raise


@contextmanager
def naming_missing_dataset(remedy: str = "give {argument}") -> Iterator[None]:
    """Context in which a RecipeError about a dataset that the recipe lacks names the argument that can give it."""
    try:
        yield
    except RecipeError as error:
        problems = [_with_argument(each, remedy) for each in error.problems]
        if tuple(problems) == error.problems:
            raise
        raise RecipeError(problems) from None


def _with_argument(problem: Problem, remedy: str) -> Problem:
    found = _MISSING.fullmatch(problem.path) if problem.code == "missing-key" else None
    if found is None or problem.remedy is None:
        return problem
    argument = f"{found[1] or 'train'}_dataset"
    return replace(problem, remedy=f"{problem.remedy.rstrip('.')}, or {remedy.format(argument=argument)}.")


def name_dataset(problem: Problem, saved: Mapping[str, SavedObject]) -> Problem:
    """``problem`` with the argument of the dataset that it is about."""
    message, remedy = _named(problem.message, problem.remedy, saved)
    return replace(problem, message=message, remedy=remedy)


def _named(message: str, remedy: str | None, saved: Mapping[str, SavedObject]) -> tuple[str, str | None]:
    for key, each in saved.items():
        if str(each.path) in message:
            message = _FIRST_ROW.sub("", message.replace(str(each.path), each.argument))
            if key and ": columns: " in message:
                return message, f'{remedy or ""} To map none: overrides=["{key}.columns=null"].'.lstrip()
            return message, remedy and _remedy(remedy, key, each.argument)
    return message, remedy


def _remedy(remedy: str, key: str, argument: str) -> str:
    if not key and (found := _RENAMED.search(remedy)):  # no recipe, so no mapping
        names = dict(re.findall(r"(?:^|, )(.+?) to (\w+)(?=, |$)", found[1]))
        return remedy.replace(found[0], f"Write `{argument}=ds.rename_columns({names!r})`.")
    found = _COLUMNS.search(remedy)
    if found is None:
        return remedy
    names = {name: column for column, name in yaml.safe_load(found[1]).items()}
    renamed = f"`{argument}=ds.rename_columns({names!r})`"
    if not key:
        return (
            remedy.replace(found[0], renamed)
            .replace(f"which column is which{_IN_RECIPE}: ", "")
            .replace(_IN_RECIPE, "")
        )
    return f"{remedy.replace(_IN_RECIPE, f' in {key} of the recipe')} Or rename them: {renamed}."
