"""Rules about secrets: a recipe is copied to every run and shared, so it must not contain any. Messages never show one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.recipe.source.env_vars import without_references
from orpo_cli.secret_patterns import looks_secret, secret_kind

REMEDY = "Remove it and revoke it; set HF_TOKEN, WANDB_API_KEY or a similar environment variable, or log in."


def secrets_in_values(values: Any) -> Iterator[Problem]:
    """A problem for each secret in the plain values of a recipe, before references to the environment are replaced."""
    for path, key, text in _walk_strings(values, "", ""):
        written = without_references(text)  # a reference is allowed, a secret in its default is not
        kind = secret_kind(written)
        placeholder = written.startswith("<")  # <HUB_TOKEN>, <|pad|>
        if kind is None and looks_secret(key) and len(written) >= 8 and not placeholder:
            kind = "a secret, according to the name of the key"
        if kind is not None:
            yield Problem("secret-in-recipe", f"contains {kind}.", path, remedy=REMEDY)
    for path, key in _walk_keys(values, ""):
        if (kind := secret_kind(key)) is not None:
            yield Problem("secret-in-recipe", f"a key contains {kind}.", path, remedy=REMEDY)


def secrets_in_comments(text: str, file: str) -> Iterator[Problem]:
    """A problem for each comment of ``file`` that contains a secret."""
    for number, line in enumerate(text.splitlines(), 1):
        _, sign, comment = line.partition("#")
        if sign and (kind := secret_kind(comment)):
            yield Problem(
                "secret-in-recipe", f"a comment contains {kind}.", "", file, number, line.index("#") + 1, REMEDY
            )


def _walk_keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each key with the path of the section that contains it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield path, str(name)
            yield from _walk_keys(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk_keys(inner, f"{path}[{index}]")


def _walk_strings(value: Any, path: str, key: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk_strings(inner, f"{path}.{name}" if path else str(name), str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk_strings(inner, f"{path}[{index}]", key)
    elif isinstance(value, str):
        yield path, key, value
