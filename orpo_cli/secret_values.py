"""Secret values from environment variables of a recipe: masked wherever they would be shown or written.

``${NAME}`` replaces the value in messages and in the files of a run. The value is restored when a plan is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

MIN_SECRET_LENGTH = 4  # a shorter value would match parts of other words
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY")
MIN_TOKEN_LENGTH = 8

_names: set[str] = set()


def register_secrets(names: Iterable[str]) -> None:
    """Mask the values of these environment variables from now on, in this process."""
    _names.update(names)


def mask_secrets(value: Any, names: Iterable[str] | None = None) -> Any:
    """``value`` (a text, or nested plain values) with the values of ``names`` replaced by ``${NAME}``.

    By default the registered variables, and the tokens that the libraries read from the environment, because the messages
    of their errors may quote them.
    """
    if names is None:
        tokens = [name for name in TOKEN_VARIABLES if len(os.environ.get(name, "").strip()) >= MIN_TOKEN_LENGTH]
        names = (*tokens, *_names)
    # a plan needs the value as it is, to restore it; a library may quote it without the line break at its end
    secrets = {form: name for name in names for form in (os.environ.get(name, "").strip(), os.environ.get(name, ""))}
    longest_first = sorted(
        (secret for secret in secrets if len(secret.strip()) >= MIN_SECRET_LENGTH), key=len, reverse=True
    )

    def mask(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, f"${{{secrets[secret]}}}")
        return text

    return _map_strings(value, mask) if secrets else value


def unmask_secrets(value: Any, names: Iterable[str]) -> Any:
    """``value`` with ``${NAME}`` replaced by the value of the variable; unchanged for a variable that is not set."""
    names = list(names)

    def unmask(text: str) -> str:
        for name in names:
            text = text.replace(f"${{{name}}}", os.environ.get(name, f"${{{name}}}"))
        return text

    return _map_strings(value, unmask) if names else value


def _map_strings(value: Any, function: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_strings(inner, function) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(inner, function) for inner in value]
    return value
