"""YAML as YAML 1.2 reads it, with places, and nothing that a recipe must not hold."""

from __future__ import annotations

import pytest

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.yaml_source import Mark, parse_value, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6), ("1.0e-5", 1e-5), ("5E3", 5000.0), (".5", 0.5), ("10", 10), ("010", 10), ("0x10", 16), ("0o10", 8),
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", ""), ("2024-01-01", "2024-01-01"),
        ("'5e-6'", "5e-6"), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("1_000", "1_000"), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    document = read_yaml("a: 1\nb:\n  - c: 2\n  - d: 3\n", "x.yaml")
    assert document.values == {"a": 1, "b": [{"c": 2}, {"d": 3}]}
    assert document.marks[("b",)] == Mark(2, 1)
    assert document.marks[("b", 1, "d")] == Mark(4, 5)


def test_merge_keys_inherit_and_what_is_written_wins() -> None:
    text = "base: &base {x: 1, y: 2}\nchild:\n  <<: *base\n  y: 3\n"
    assert read_yaml(text, "x.yaml").values["child"] == {"x": 1, "y": 3}


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "given before, on line 1"),
        ("a: 1\nb: [1\n", 3, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !mine x\n", 1, "tag"),
        ("- a\n", 1, "mapping of sections"),
        ("", 1, "empty"),
        ("? [a, b]\n: 1\n", 1, "key must be a word"),
        ("a: *missing\n", 1, "not valid YAML"),
        ("a: \x01\n", 1, "not valid YAML"),
        (BILLION, 1, "unfolds to more than"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("# " + "x" * 1_000_000, 1, "bytes"),
    ],
)  # fmt: skip
def test_what_a_recipe_must_not_hold_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "x.yaml")
    (problem,) = caught.value.problems
    assert words in problem.message
    assert (problem.file, problem.line) == ("x.yaml", line)
