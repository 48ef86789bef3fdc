"""The generated table of training arguments is that of the pinned library."""

from __future__ import annotations

from orpo_cli.recipe.training_fields import LIBRARY_DEFAULTS, TrainingFields
from orpo_cli.training.argument_table import TARGET, render


def test_the_generated_table_is_fresh() -> None:
    assert TARGET.read_text() == render(), "run python -m orpo_cli.training.argument_table"


def test_every_argument_has_a_field_and_takes_the_librarys_own_default() -> None:
    assert set(TrainingFields.model_fields) == set(LIBRARY_DEFAULTS)
    TrainingFields.model_validate(
        {name: value for name, value in LIBRARY_DEFAULTS.items() if name != "save_total_limit"}
    )
