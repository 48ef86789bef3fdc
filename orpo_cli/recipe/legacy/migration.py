"""Training arguments as people have them (of April 2024, of a printed ORPOConfig, of today) in the names of a recipe.

``translated`` takes the mapping under `training:`; ``today`` a whole recipe. Neither drops anything without a word: what is
renamed, moved or left out is a warning, what cannot be done is an error. Names that nobody knows are left where they are,
for the schema to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy, equal_and_same_kind
from orpo_cli.recipe.legacy.renamed_args import RENAMED_ARGS, RENAMED_OPTIMIZERS
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS

ARGUMENT_POLICIES = {**RENAMED_ARGS, **UNSUPPORTED_TRAINING_ARGS}


@dataclass(frozen=True)
class Migration:
    """Arguments by today's names.

    ``training`` is what stays under `training:`, ``elsewhere`` maps dotted paths (``dataset.max_prompt_length``) to values
    that belong to other sections, ``names`` maps the dotted path of each value that moved to the one it was written at.
    A problem's path is where the value was written, without file and line.
    """

    training: dict[str, Any]
    other_sections: dict[str, Any]
    written_paths: dict[str, str]
    problems: tuple[Problem, ...]


def migrate_training_args(training: Mapping[str, Any]) -> Migration:
    """``training`` in the names of a recipe."""
    work = _TrainingMigration(dict(training))
    work.join_organization()
    for fates in (RENAMED_ARGS, UNSUPPORTED_TRAINING_ARGS):  # a former name may stand for one that is decided elsewhere
        for name in [name for name in work.training if name in fates]:
            work.apply_policy(name, fates[name])
    work.rename_optimizer()
    return Migration(work.training, work.other_sections, work.written_paths, tuple(work.problems))


def migrate_recipe(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], tuple[Problem, ...]]:
    """A whole recipe's plain values in the names of today, with ``Translation.names`` and the problems."""
    if not isinstance(values.get("training"), Mapping):
        return dict(values), {}, ()
    translation = migrate_training_args(values["training"])
    result = {**values, "training": translation.training}
    problems = list(translation.problems)
    for path, value in translation.other_sections.items():
        written = translation.written_paths[path]
        if not _set_path(result, path, value):
            problems = [each for each in problems if each.path != written]
            problems.append(_conflict(written, path))
    return result, translation.written_paths, tuple(problems)


@dataclass
class _TrainingMigration:
    training: dict[str, Any]
    other_sections: dict[str, Any] = field(default_factory=dict)
    written_paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def apply_policy(self, name: str, fate: ArgumentPolicy) -> None:
        value = self.training.pop(name)
        shown = _format_value(value)
        if fate.is_noop(value):
            self.add_warning(
                "argument-without-effect", name, f"asks for nothing as {shown}, and is left out.", fate.reason
            )
        elif fate.new_path is not None:
            self.move_argument(name, fate, fate.new_path, value)
        elif fate.supported:
            self.training[name] = value
        elif fate.ignored:
            self.add_warning("argument-without-effect", name, f"has no effect ({shown}), and is left out.", fate.reason)
        else:
            self.problems.append(_refusal(name, fate))
            if fate.checked_by_rules:
                self.training[name] = value

    def move_argument(self, name: str, fate: ArgumentPolicy, to: str, value: Any) -> None:
        try:
            moved = fate.convert(value) if fate.convert else value
        except ValueError as error:
            remedy = fate.reason
            message = f"{error}, but is {_format_value(value)}."
            self.problems.append(Problem("invalid-value", message, f"training.{name}", remedy=remedy))
            return
        section, _, inner = to.partition(".")
        if section != "training":
            placed = to not in self.other_sections or equal_and_same_kind(
                self.other_sections[to], moved
            )  # .nan is not the same as itself
            self.other_sections.setdefault(to, moved)
        else:
            placed = _set_path(self.training, inner, moved, fate.overwritable_values)
        if not placed:
            self.problems.append(_conflict(f"training.{name}", to))
            return
        self.written_paths.setdefault(to, f"training.{name}")
        message = f"is read as `{to}: {_format_value(moved)}`."
        if name in RENAMED_ARGS:
            self.add_warning("renamed-argument", name, message, fate.reason)
        else:
            self.add_warning("moved-argument", name, message, fate.reason)

    def join_organization(self) -> None:
        """Former versions put the organization in front of the model id."""
        organization, model = (self.training.get(f"push_to_hub_{part}") for part in ("organization", "model_id"))
        if isinstance(organization, str) and isinstance(model, str) and "/" not in model:
            self.training["push_to_hub_model_id"] = f"{organization}/{model}"
            self.training.pop("push_to_hub_organization")
            self.add_warning(
                "renamed-argument",
                "push_to_hub_organization",
                f"is read as part of `hub.repo_id: {organization}/{model}`.",
            )

    def rename_optimizer(self) -> None:
        former = self.training.get("optim")
        if isinstance(former, str) and former in RENAMED_OPTIMIZERS:
            self.training["optim"] = RENAMED_OPTIMIZERS[former]
            message = f"is read as `{RENAMED_OPTIMIZERS[former]}`, which does what `{former}` did."
            self.add_warning("renamed-argument", "optim", message)

    def add_warning(self, code: str, name: str, message: str, reason: str | None = None) -> None:
        text = f"{message} {reason}" if reason else message
        self.problems.append(Problem(code, text, f"training.{name}", severity="warning"))


def _set_path(values: dict[str, Any], path: str, value: Any, unset: tuple[Any, ...] = ()) -> bool:
    """Put ``value`` at the dotted ``path``; False where another value stands there. Copies the mappings on the way."""
    here = values
    *around, last = path.split(".")
    for part in around:
        inner = here.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            return False
        here[part] = dict(inner or {})
        here = here[part]
    there = here.get(last)
    if (
        there is not None
        and not equal_and_same_kind(there, value)
        and not any(equal_and_same_kind(there, each) for each in unset)
    ):
        return False
    here[last] = value
    return True


def _refusal(name: str, fate: ArgumentPolicy) -> Problem:
    path = f"training.{name}"
    if fate.secret:
        return Problem("secret-in-recipe", f"holds a token. {fate.reason}", path, remedy=fate.remedy)
    if name in RENAMED_ARGS:
        return Problem("removed-argument", f"is no longer an argument. {fate.reason}", path, remedy=fate.remedy)
    return Problem("unsupported-training-argument", f"is not set here. {fate.reason}", path, remedy=fate.remedy)


def _conflict(written: str, path: str) -> Problem:
    return Problem(
        "conflicting-arguments", f"says something else than `{path}`, which it is read as.", written, remedy="Keep one."
    )


def _format_value(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    import json

    text = value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
