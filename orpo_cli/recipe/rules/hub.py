"""Rules about the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

# As huggingface_hub's validate_repo_id has it, and with a namespace: a bare name would go wherever the token belongs.
REPO_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


def well_formed_repository(recipe: Recipe) -> Iterator[Problem]:
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


RULES = (well_formed_repository,)
