"""The generated table of training arguments is that of the pinned library."""

from __future__ import annotations

import dataclasses
import re

import pytest
from transformers import TrainingArguments
from trl.experimental.orpo import ORPOConfig

from orpo_cli.recipe.schema.training_fields import GROUPS, LIBRARY_DEFAULTS, TrainingFields
from tools.argument_descriptions import MEANINGS
from tools.generate_training_fields import TARGET, meanings, render


def test_the_generated_table_is_fresh() -> None:
    assert TARGET.read_text() == render(), "run python -m tools.generate_training_fields"


def test_every_argument_has_a_field_and_takes_the_librarys_own_default() -> None:
    assert set(TrainingFields.model_fields) == set(LIBRARY_DEFAULTS)
    TrainingFields.model_validate(LIBRARY_DEFAULTS)


def test_every_argument_stands_in_one_group_with_a_meaning() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(TrainingFields.model_fields)
    assert all(field.description for field in TrainingFields.model_fields.values())


def test_an_argument_without_a_meaning_or_a_meaning_without_an_argument_is_refused() -> None:
    names = {name for group in MEANINGS.values() for name in group}
    for wrong in (names | {"brand_new"}, names - {"beta"}):
        with pytest.raises(ValueError, match=r"brand_new|beta"):
            meanings(wrong)


def test_meanings_are_a_line_each_and_not_the_librarys_words() -> None:
    def words(text: str) -> str:
        return " ".join(re.findall(r"[a-z0-9]+", text.lower()))

    helps = [str(field.metadata.get("help")) for field in dataclasses.fields(ORPOConfig)]
    theirs = words(" ".join((*helps, str(ORPOConfig.__doc__), str(TrainingArguments.__doc__))))
    for group in MEANINGS.values():
        for name, meaning in group.items():
            assert re.fullmatch(r"[^\n]{12,140}\.", meaning), name
            assert words(meaning) not in theirs, name
