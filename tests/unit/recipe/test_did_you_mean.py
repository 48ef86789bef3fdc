"""Did-you-mean suggestions for names and keys."""

from __future__ import annotations

import pytest

from orpo_cli.errors import DOCS
from orpo_cli.recipe.did_you_mean import closest_name, did_you_mean, did_you_mean_key, known_keys


def test_the_closest_name_is_suggested_or_none() -> None:
    assert closest_name("wandbb", ("mlflow", "wandb")) == "wandb"
    assert closest_name("xyz", ("mlflow", "wandb")) is None
    assert did_you_mean("wandbb", ("mlflow", "wandb"), "Use wandb.") == "Did you mean `wandb`?"
    assert did_you_mean("xyz", ("mlflow", "wandb"), "Use wandb.") == "Use wandb."


@pytest.mark.parametrize(
    ("key", "section", "remedy"),
    [
        ("lr", ("training",), "The name here is `learning_rate`."),
        ("batch_size", ("training",), "The name here is `per_device_train_batch_size`."),
        ("micro_batch_size", ("training",), "The name here is `per_device_train_batch_size`."),
        ("per_device_batch_size", ("training",), "The name here is `per_device_train_batch_size`."),
        ("learning_rat", ("training",), "Did you mean `learning_rate`?"),
        ("beta", ("model",), "It belongs in `training`: `training.beta`."),
        ("zzz", ("engine",), "Known keys: fast_path, max_tokens_per_microbatch."),
        ("zzz", ("training",), f"The keys: {DOCS}/reference/training-arguments.md"),
    ],
)
def test_an_unknown_key_is_answered_with_its_name_its_section_or_the_known_keys(
    key: str, section: tuple[str, ...], remedy: str
) -> None:
    assert did_you_mean_key(key, section) == remedy


def test_known_keys_of_a_union_are_those_of_every_member() -> None:
    assert {"path", "test_size"} <= known_keys(("dataset", "eval", 0))
