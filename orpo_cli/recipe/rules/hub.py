"""Rules about the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.eval_save_defaults import save_strategy
from orpo_cli.recipe.rules.explicit_non_defaults import explicit_non_defaults
from orpo_cli.recipe.schema import Recipe

# As huggingface_hub's validate_repo_id has it, and with a namespace: a bare name would go wherever the token belongs.
REPO_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


def invalid_repo_id(recipe: Recipe) -> Iterator[Problem]:
    """A repository is a namespace and a name that the hub accepts."""
    name = recipe.hub.repo_id
    if name is None or (
        REPO_ID.fullmatch(name) and "--" not in name and ".." not in name and not name.endswith(".git")
    ):
        return
    yield Problem(
        "hub-repo-id",
        f"{name!r} is no name of a repository: namespace/name, of letters, digits, `-`, `_` and `.`, at most 96 each.",
        "hub.repo_id",
        remedy="For example my-name/my-model.",
    )


def push_settings(recipe: Recipe) -> Iterator[Problem]:
    """What is pushed while a run trains needs a repository; how it is pushed needs something pushed."""
    training = recipe.training
    if not training.push_to_hub:
        for name in explicit_non_defaults(recipe, "hub_strategy", "hub_always_push", "hub_revision"):
            yield _unused(name, "push_to_hub is not true.", "Add `push_to_hub: true`, or remove it.")
        return
    if recipe.hub.repo_id is None:
        yield Problem(
            "push-without-repository",
            "does not know where to.",
            "training.push_to_hub",
            remedy="Set hub.repo_id to NAMESPACE/NAME, or remove it and use `orpo push-to-hub` on the run.",
        )
    kept = training.hub_strategy in ("checkpoint", "all_checkpoints")
    if kept and save_strategy(recipe)[0] == "no":
        yield _unused(
            "hub_strategy", "save_strategy is no, so there is no checkpoint.", "Set save_strategy, or remove it."
        )
    if training.hub_strategy == "end" and training.hub_always_push:
        yield _unused("hub_always_push", "with `hub_strategy: end` there is one push.", "Remove it.")


def _unused(name: str, reason: str, remedy: str) -> Problem:
    return Problem(
        "push-settings-unused",
        f"would do nothing: {reason}",
        f"training.{name}",
        remedy=remedy,
        severity="warning",
    )


RULES = (invalid_repo_id, push_settings)
