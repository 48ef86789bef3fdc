"""Base class of all sections of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Strict and immutable section: unknown keys, values of another type and later changes are errors.

    ``defer_build``: pydantic builds the validators of all sections once, with the recipe.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, protected_namespaces=(), defer_build=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """Give keys with null their default. Unknown keys stay, so that they are refused."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None or key not in cls.model_fields}
