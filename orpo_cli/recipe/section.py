"""The base of every section of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Strict and immutable: unknown keys, values of another type and later changes are errors.

    A section is built as part of the recipe around it, when the first one is validated, not by itself and once more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), defer_build=True)
