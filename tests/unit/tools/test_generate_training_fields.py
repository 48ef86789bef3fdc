"""Generated table of training arguments: up to date with the pinned library, and every argument described once."""

from __future__ import annotations

import dataclasses
import re

import pytest
from transformers import TrainingArguments
from trl.experimental.orpo import ORPOConfig

from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS, TrainingFields
from tools.argument_descriptions import ARGUMENT_DESCRIPTIONS
from tools.generate_training_fields import TARGET, checked_descriptions, render


def test_the_generated_table_is_up_to_date() -> None:
    assert TARGET.read_text() == render(), "run python -m tools.generate_training_fields"


def test_every_argument_has_a_field_that_accepts_the_default_of_the_library() -> None:
    assert set(TrainingFields.model_fields) == set(LIBRARY_DEFAULTS)
    TrainingFields.model_validate(LIBRARY_DEFAULTS)


def test_every_argument_is_in_one_group_and_has_a_description() -> None:
    grouped = [name for names in ARGUMENT_DESCRIPTIONS.values() for name in names if name != "output_dir"]
    assert sorted(grouped) == sorted(TrainingFields.model_fields)
    assert all(field.description for field in TrainingFields.model_fields.values())


def test_an_argument_without_a_description_is_refused_and_the_reverse() -> None:
    names = {name for group in ARGUMENT_DESCRIPTIONS.values() for name in group}
    for wrong in (names | {"brand_new"}, names - {"beta"}):
        with pytest.raises(ValueError, match=r"brand_new|beta"):
            checked_descriptions(wrong)


def test_descriptions_are_one_line_each_and_not_copied_from_the_library() -> None:
    def normalized(text: str) -> str:
        return " ".join(re.findall(r"[a-z0-9]+", text.lower()))

    helps = [str(field.metadata.get("help")) for field in dataclasses.fields(ORPOConfig)]
    library_text = normalized(" ".join((*helps, str(ORPOConfig.__doc__), str(TrainingArguments.__doc__))))
    for group in ARGUMENT_DESCRIPTIONS.values():
        for name, description in group.items():
            assert re.fullmatch(r"[^\n]{12,140}\.", description), name
            assert normalized(description) not in library_text, name
