"""Secrets that a recipe takes from the environment: wherever they would be shown or written, their names stand for them.

``${NAME}`` takes the place of the value in messages and in the files of a run, and becomes the value again when a plan is
read back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

MIN_SECRET_LENGTH = 4  # a shorter value would be found by chance inside other words
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY")
MIN_TOKEN_LENGTH = 8

_names: set[str] = set()


def register_secrets(names: Iterable[str]) -> None:
    """From now on, in this process, the values of these environment variables are hidden."""
    _names.update(names)


def mask_secrets(value: Any, names: Iterable[str] | None = None) -> Any:
    """``value`` (a text, or plain nested values) without what must not be shown, or without these variables' values.

    What must not be shown are the registered variables, and the tokens that the libraries read from the environment
    themselves: their errors quote them.
    """
    if names is None:
        secrets = {name: token for name in TOKEN_VARIABLES if len(token := _value(name)) >= MIN_TOKEN_LENGTH}
        secrets |= {name: _value(name) for name in _names}
    else:
        secrets = {name: _value(name) for name in names}
    longest_first = sorted(secrets.items(), key=lambda item: -len(item[1]))

    def names_for_values(text: str) -> str:
        for name, secret in longest_first:
            if len(secret) >= MIN_SECRET_LENGTH:
                text = text.replace(secret, f"${{{name}}}")
        return text

    return _map_strings(value, names_for_values) if secrets else value


def unmask_secrets(value: Any, names: Iterable[str]) -> Any:
    """``value`` with the values of these variables again; the name of one that is not set any more stays."""
    names = list(names)

    def values_for_names(text: str) -> str:
        for name in names:
            text = text.replace(f"${{{name}}}", os.environ.get(name, f"${{{name}}}"))
        return text

    return _map_strings(value, values_for_names) if names else value


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(inner, change) for inner in value]
    return value
