"""Errors of a library about the settings of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orpo_cli.errors import MachineError, UsageError


@contextmanager
def explain_setting_errors(*names: str) -> Iterator[None]:
    """Context of a library call: its errors become OrpoErrors that name the settings."""
    try:
        yield
    except ImportError as error:
        raise MachineError(f"{names[0]}: {error}", remedy="Install it, or choose another.") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{' and '.join(names)}: {error}", remedy="See the library's documentation.") from error
