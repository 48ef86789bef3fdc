"""Secret values that are known to this process: masked wherever they would be shown or written.

They are the values of environment variables with secret-looking names, those that a recipe uses for a secret setting, and the
token of ``hf auth login``. ``${NAME}`` replaces the value in messages and in the files of a run. A plan restores the value when
it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from orpo_cli.secret_patterns import looks_secret, secret_kind

REDACTED = "[redacted]"
MIN_SECRET_LENGTH = 4  # a shorter value would match parts of other words
# Of a value that no recipe uses for a secret setting. It may be a word or a path, in spite of its name.
MIN_OTHER_LENGTH = 8

_names: set[str] = set()


def register_secrets(names: Iterable[str]) -> None:
    """Mask the values of these environment variables from now on, in this process."""
    _names.update(names)


def mask_secrets(value: Any, names: Iterable[str] | None = None) -> Any:
    """``value`` (a text, or nested plain values) with the values of the variables ``names`` replaced by ``${NAME}``.

    By default all secrets that this process knows, also in the encodings in which libraries quote them (URLs, JSON, HTML, base64).
    """
    # a plan needs the value as it is, to restore it; a library may quote it without the line break at its end
    if names is not None:
        environment = {name: os.environ.get(name, "") for name in names}
        masks = _longest_first(
            {form: f"${{{name}}}" for name, secret in environment.items() for form in (secret.strip(), secret)}
        )
    else:
        masks = _known_masks(tuple(os.environ.items()), frozenset(_names), _stored_token())

    def mask(text: str) -> str:
        for form, replacement in masks:
            text = text.replace(form, replacement)
        return text

    return map_strings(value, mask) if masks else value


def unmask_secrets(value: Any, names: Iterable[str]) -> Any:
    """``value`` with ``${NAME}`` replaced by the value of the variable; unchanged for a variable that is not set."""
    names = list(names)

    def unmask(text: str) -> str:
        for name in names:
            text = text.replace(f"${{{name}}}", os.environ.get(name, f"${{{name}}}"))
        return text

    return map_strings(value, unmask) if names else value


def map_strings(value: Any, function: Callable[[str], str]) -> Any:
    """Nested plain values with ``function`` applied to each text except the keys of mappings."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return {key: map_strings(inner, function) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(inner, function) for inner in value]
    return value


@lru_cache(maxsize=1)  # a message has many texts, and the environment hardly ever changes
def _known_masks(
    environment: tuple[tuple[str, str], ...], names: frozenset[str], stored_token: str | None
) -> tuple[tuple[str, str], ...]:
    """(form of a secret, its replacement) of this process; for a value of two variables the one that the recipe names."""
    secrets = [(stored_token, REDACTED)] if stored_token is not None else []
    for name, value in environment:
        if _value_is_secret(value) or (looks_secret(name) and _is_distinctive(value)):
            secrets += [(form, f"${{{name}}}") for form in (value.strip(), value, *_passwords(value))]
    for name, value in sorted(environment):
        if name in names:
            secrets += [(form, f"${{{name}}}") for form in (value.strip(), value) if len(form) >= MIN_SECRET_LENGTH]
    return _longest_first({form: mask for secret, mask in secrets for form in _encoded_forms(secret)})


def _longest_first(masks: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Without those that are too short. A secret may be part of another one."""
    long = [each for each in masks.items() if len(each[0].strip()) >= MIN_SECRET_LENGTH]
    return tuple(sorted(long, key=lambda each: len(each[0]), reverse=True))


@lru_cache(maxsize=1024)
def _value_is_secret(value: str) -> bool:
    return secret_kind(value) is not None


def _passwords(value: str) -> list[str]:
    """The passwords of the addresses in ``value``, such as a DATABASE_URL, which errors quote alone."""
    from urllib.parse import unquote

    found = [unquote(each) for each in re.findall(r"://[^/\s:@]*:([^/\s@]+)@", value)]
    return [each for each in found if len(each) >= MIN_OTHER_LENGTH]


def _is_distinctive(value: str) -> bool:
    """Whether the value is hardly part of another text: neither short, nor one lower-case word, nor an existing path."""
    value = value.strip()
    if len(value) < MIN_OTHER_LENGTH or (value.isalpha() and value.islower()):
        return False
    try:
        return not Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a path, or with a null byte
        return True


def _stored_token() -> str | None:
    """The token that `hf auth login` stored; None without one."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    try:
        token = Path(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")).expanduser().read_text().strip()
    except (OSError, ValueError, RuntimeError):
        return None
    return token if len(token) >= MIN_OTHER_LENGTH else None


@lru_cache(maxsize=256)
def _encoded_forms(secret: str) -> frozenset[str]:
    """The secret as it is, and as URLs, JSON, Python, HTML and base64 (as part of a longer text, too) have it."""
    import base64
    import html
    import json
    from urllib.parse import quote, quote_plus

    raw = secret.encode(errors="surrogateescape")
    forms = {secret, quote(raw), quote(raw, safe=""), quote_plus(raw), html.escape(secret), repr(secret)[1:-1]}
    forms |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    if len(secret) >= MIN_OTHER_LENGTH:
        for offset, unknown in enumerate((0, 2, 3)):  # characters that depend on the bytes before the secret
            whole = (offset + len(raw)) * 8 // 6  # characters that do not depend on the bytes after it
            encoded = base64.b64encode(b"\0" * offset + raw).decode()[unknown:whole]
            forms |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return frozenset(forms)
