"""YAML reader: YAML 1.2 scalars, positions, and refusal of forbidden content."""

from __future__ import annotations

import pytest

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.source.nodes import MappingNode, Origin, ScalarNode, format_path, parse_path, plain_values, walk
from orpo_cli.recipe.source.yaml_reader import read_value, read_yaml

ELSEWHERE = Origin("--set")


def value(text: str) -> object:
    return plain_values(read_value(text, ELSEWHERE))


def positions(text: str) -> dict[str, tuple[int | None, int | None]]:
    return {format_path(path): (node.origin.line, node.origin.column) for path, node in walk(read_yaml(text, "x.yaml"))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5e-6", 5e-6), ("1.0e-5", 1e-5), ("5E3", 5000.0), (".5", 0.5), ("10", 10), ("010", 10), ("0x10", 16), ("0o10", 8),
        ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", ""), ("2024-01-01", "2024-01-01"),
        ("'5e-6'", "5e-6"), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("1_000", "1_000"), ("-.inf", float("-inf")),
        ("!!str 5e-6", "5e-6"), ("!!float 5", 5.0), ("-7", -7), ("a: b: c", "a: b: c"), ("a #1", "a #1"), ("[1", "[1"),
        ("x\nmodel: y", "x\nmodel: y"), ("*x", "*x"),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2(text: str, expected: object) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_every_key_and_item_has_its_position() -> None:
    text = "a: 1\nb:\n  - c: 2\n  - d: 3\n"
    assert plain_values(read_yaml(text, "x.yaml")) == {"a": 1, "b": [{"c": 2}, {"d": 3}]}
    assert positions(text) == {
        "a": (1, 1),
        "b": (2, 1),
        "b[0]": (3, 5),
        "b[0].c": (3, 5),
        "b[1]": (4, 5),
        "b[1].d": (4, 5),
    }
    section = read_yaml(text, "x.yaml").nodes["b"]
    assert section.origin == Origin("x.yaml", 2, 1)


def test_merge_keys_insert_values_and_written_keys_have_precedence() -> None:
    text = "base: &base {x: 1, y: 2}\nchild:\n  y: 3\n  <<: *base\n"
    assert plain_values(read_yaml(text, "x.yaml"))["child"] == {"x": 1, "y": 3}
    assert {path: position for path, position in positions(text).items() if "child." in path} == {
        "child.x": (1, 14),
        "child.y": (3, 3),
    }


def test_the_first_of_several_merged_mappings_has_precedence() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc:\n  <<: [*a, *b]\n"
    assert plain_values(read_yaml(text, "x.yaml"))["c"] == {"x": 1, "y": 2}


def test_an_alias_has_the_position_of_its_use_and_its_values_that_of_the_anchor() -> None:
    tree = read_yaml("a: &a\n  x: 1\nb: *a\n", "x.yaml")
    shared = tree.nodes["b"]
    assert isinstance(shared, MappingNode)
    assert shared.origin.line == 3
    assert shared.nodes["x"] == ScalarNode(1, Origin("x.yaml", 2, 3))


def test_a_value_that_is_not_from_a_file_has_the_given_origin() -> None:
    assert {node.origin for _, node in walk(read_value("{a: [1, {b: 2}]}", ELSEWHERE))} == {ELSEWHERE}


@pytest.mark.parametrize("text", ["a", "a.b", "a[0]", "a[0].b", "a[1][2].c"])
def test_dotted_names_are_paths(text: str) -> None:
    assert format_path(parse_path(text)) == text


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


@pytest.mark.timeout(120)  # seconds, against what would never end
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the first one is on line 1"),
        ("a: 1\nb: [1\n", 3, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !mine x\n", 1, "tag"),
        ("a: !!int x\n", 1, "not of the type int"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("- a\n", 1, "mapping of sections"),
        ("", 1, "empty"),
        ("# nothing\n", 1, "empty"),
        ("? [a, b]\n: 1\n", 1, "key must be text"),
        ("a: 1\n~: 1\n", 2, "key must be text"),
        ("a: *missing\n", 1, "there is no anchor"),
        ("a: &a [*a]\n", 1, "there is no anchor"),
        ("a: &a\n  <<: *a\n", 2, "there is no anchor"),
        ("a: 1\n---\nb: 1\n", 2, "second document"),
        ("a: \x01\n", 1, "not valid YAML"),
        ("a:\n  <<: 1\n", 2, "must be a mapping"),
        ("a: 1\nb: " + "9" * 5000, 2, "19 digits"),
        (BILLION, 5, "has more than 10,000 values"),
        ("a: " + "[" * 5000, 1, "nested too deeply"),
        ("a: " + "{a: " * 5000, 1, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), 52, "nested too deeply"),
        ("a: 1\n" + "- " * 90_000, 2, "not valid YAML"),
        ("a: [" + "1, " * 60_000 + "]", 1, "has more than 10,000 values"),
        ("# " + "x" * 1_000_000, 1, "bytes"),
    ],
)  # fmt: skip
def test_forbidden_content_is_refused_early_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "x.yaml")
    (problem,) = caught.value.problems
    assert words in problem.message
    assert (problem.file, problem.line) == ("x.yaml", line)


def test_forbidden_content_is_refused_in_single_values() -> None:
    for text in (
        "[" * 5000,
        "!!python/object/apply:os.system ['true']",
        "{a: 1, a: 2}",
        "{a: &a [x, x], b: [*a, !x y]}",
    ):
        with pytest.raises(RecipeError):
            read_value(text, ELSEWHERE)
