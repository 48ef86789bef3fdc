"""Rules about secrets: a recipe is copied to every run and shared, so it must not contain any. Messages never show one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.recipe.source.env_vars import looks_secret

# Patterns of secrets, which are searched in the values of all keys.
SECRETS = {
    "a Hugging Face token": re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[opsru]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "a GitLab token": re.compile(r"\bglpat-[\w-]{16,}"),
    "a Weights & Biases key": re.compile(r"\bwandb_v\d_\w{20,}|(?i:wandb\w{0,20}key)\W{1,4}[0-9a-f]{40}\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"://[^/\s:@]+:[^/\s@]+@"),
    "a signed URL": re.compile(r"[?&](?:X-Amz-Signature|Signature|sig|token|access_token)=[^\s&]{8,}"),
}
# A reference to an environment variable is allowed, a secret in its default is not.
REFERENCE = re.compile(r"\$\{\w+(?::-)?")
REMEDY = "Remove it and revoke it; use an environment variable (HF_TOKEN, WANDB_API_KEY, …) or log in."


def secret_kind(text: str) -> str | None:
    """The kind of secret that ``text`` contains; None if it contains none."""
    return next((kind for kind, pattern in SECRETS.items() if pattern.search(text)), None)


def secrets_in_values(values: Any) -> Iterator[Problem]:
    """A problem for each secret in the plain values of a recipe, before references to the environment are replaced."""
    for path, key, text in _walk_strings(values, "", ""):
        written = REFERENCE.sub("", text)
        kind = secret_kind(written)
        placeholder = written.startswith("<")  # <HUB_TOKEN>, <|pad|>
        if kind is None and looks_secret(key) and len(written) >= 8 and not placeholder:
            kind = "a secret, according to the name of the key"
        if kind is not None:
            yield Problem("secret-in-recipe", f"contains {kind}.", path, remedy=REMEDY)


def secrets_in_comments(text: str, file: str) -> Iterator[Problem]:
    """A problem for each comment of ``file`` that contains a secret."""
    for number, line in enumerate(text.splitlines(), 1):
        _, sign, comment = line.partition("#")
        if sign and (kind := secret_kind(comment)):
            yield Problem(
                "secret-in-recipe", f"a comment contains {kind}.", "", file, number, line.index("#") + 1, REMEDY
            )


def _walk_strings(value: Any, path: str, key: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk_strings(inner, f"{path}.{name}" if path else str(name), str(name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk_strings(inner, f"{path}[{index}]", key)
    elif isinstance(value, str):
        yield path, key, value
