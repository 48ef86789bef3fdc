"""`--set`: YAML values, paths into lists, created sections, and errors about the existing node."""

from __future__ import annotations

from typing import Any

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.nodes import Origin, plain_values, walk
from orpo_cli.recipe.source.overrides import apply_overrides
from orpo_cli.recipe.source.yaml_reader import read_yaml

TEXT = """\
name: x
dataset: {train: [{path: a}, {path: b}]}
training: {report_to: [wandb], seed: 1}
one: {dataset: {train: {path: a}}}
"""


def after(*overrides: str, text: str = TEXT) -> Any:
    tree = read_yaml(text, "r.yaml")
    for override in overrides:
        tree = apply_overrides(tree, override)
    return plain_values(tree)


@pytest.mark.parametrize(
    "path", ["dataset.train.1.path", "dataset.train[1].path", "dataset.train[1][path]", "dataset.train.1[path]"]
)
def test_an_index_is_written_with_dots_or_brackets(path: str) -> None:
    assert after(f"{path}=c")["dataset"]["train"] == [{"path": "a"}, {"path": "c"}]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.beta=5e-2", ("training", "beta"), 0.05),
        ("training.seed = 3", ("training", "seed"), 3),
        ("training.report_to=[a, b]", ("training", "report_to"), ["a", "b"]),
        ("training.report_to.0=a", ("training", "report_to"), ["a"]),
        ("lora.r=4", ("lora",), {"r": 4}),
        ("a.b.c.d=1", ("a",), {"b": {"c": {"d": 1}}}),
        ("training={seed: 2}", ("training",), {"seed": 2}),
        ("name=a=b", ("name",), "a=b"),
        ("name=", ("name",), ""),
        ("name=a #1", ("name",), "a #1"),
        ("new.train.0.path=x", ("new", "train"), [{"path": "x"}]),
    ],
)
def test_a_value_is_yaml_and_missing_sections_are_created(override: str, path: tuple[str, ...], value: Any) -> None:
    here = after(override)
    for part in path:
        here = here[part]
    assert here == value


def test_null_removes_a_value_but_an_unknown_key_is_still_refused() -> None:
    result = after("training.seed=null", "dataset.train.0=null", "name=~", "trainin=null")
    assert result["training"] == {"report_to": ["wandb"]}
    assert result["dataset"] == {"train": [{"path": "b"}]}
    assert "name" not in result
    assert result["trainin"] is None


def test_a_single_source_has_index_0() -> None:
    text = "dataset: {train: {path: a}}\n"
    assert after("dataset.train.0.path=b", text=text) == {"dataset": {"train": {"path": "b"}}}
    assert after("dataset.train[0]={path: b}", text=text) == {"dataset": {"train": {"path": "b"}}}


def test_several_overrides_build_a_list() -> None:
    result = after("d.train.0.path=a", "d.train.1.path=b")
    assert result["d"] == {"train": [{"path": "a"}, {"path": "b"}]}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.beta", "of the form section.key=value"),
        ("=1", "of the form"),
        ("a..b=1", "of the form"),
        ("training.=1", "of the form"),
        ("name.x=1", "name is a single value"),
        (
            "dataset.train.0.path.y=1",
            r"dataset.train\[0\].path is a single value|dataset.train.0.path is a single value",
        ),
        ("dataset.train.path=1", "is a list of 2; use an index from 0 to 1"),
        ("dataset.train.2.path=1", "is a list of 2"),
        ("dataset.train.-1.path=1", "is a list of 2"),
        ("training.report_to.1=x", "is a list of 1; its only index is 0"),
        ("extends=x.yaml", "extends cannot be overridden"),
    ],
)
def test_a_path_that_does_not_exist_is_an_error_about_the_existing_node(override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        after(override)
    assert str(caught.value).startswith(f"--set {override}: ")


def test_other_values_keep_their_origin() -> None:
    tree = apply_overrides(read_yaml(TEXT, "r.yaml"), "dataset.train.1.path=c")
    origins = {path: node.origin for path, node in walk(tree)}
    assert origins[("dataset", "train", 1, "path")] == Origin("--set")
    assert origins[("dataset", "train", 0, "path")].line == 2
