"""The base of every section of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Strict and immutable: unknown keys, values of another type and later changes are errors.

    A section is built as part of the recipe around it, when the first one is validated, not by itself and once more.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """A key with null is as if it were not there: it has its default. An unknown one stays, to be refused."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None or key not in cls.model_fields}
