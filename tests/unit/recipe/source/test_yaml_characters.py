"""Characters that editors put into YAML: each is refused or has a remedy that names what to write."""

from __future__ import annotations

import pytest

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.source.nodes import Origin, plain_values
from orpo_cli.recipe.source.yaml_reader import read_value, read_yaml
from orpo_cli.recipe.source.yaml_writer import inline_yaml

NBSP, IDEOGRAPHIC, ZERO_WIDTH = "\u00a0", "\u3000", "\u200b"


@pytest.mark.parametrize(
    ("text", "line", "code", "words"),
    [
        (f"model:\n{NBSP}{NBSP}name: x\n", 2, "yaml-characters", "`name` starts with a no-break space (U+00A0)"),
        (f"model:\n  {NBSP}name: x\n", 2, "yaml-characters", "Indent with ordinary spaces"),
        (f"model:\n{IDEOGRAPHIC}name: x\n", 2, "yaml-characters", "ideographic space (U+3000)"),
        (f"model:\n  name: x{NBSP}\n", 2, "yaml-characters", "the value `x` ends with a no-break space"),
        (f"model:\n  {ZERO_WIDTH}name: x\n", 2, "yaml-characters", "zero width space (U+200B)"),
        (f"model:\n  a: 1\n {NBSP}b: 2\n", 3, "yaml-syntax", "Line 3 is indented with a no-break space (U+00A0)"),
        ("a: “x”\n", 1, "yaml-characters", 'Write "x".'),
        ("a: [“q_proj”, “v_proj”]\n", 1, "yaml-characters", 'Write "q_proj".'),
        ("“a”: x\n", 1, "yaml-characters", "the key “a” has typographic quotes"),
        ("a: „x“\n", 1, "yaml-characters", 'Write "x".'),
        ("a: ‘x’\n", 1, "yaml-characters", 'Write "x".'),
        ("a: «x»\n", 1, "yaml-characters", 'Write "x".'),
        ("a: “0.1”\n", 1, "yaml-characters", "Write 0.1."),
        ("a:\n  – path: x\n", 2, "yaml-characters", "A list item starts with a hyphen: `- path`."),
        ("a:\n  seed = 1\n  beta: 0.1\n", 3, "yaml-syntax", "Line 2: write a colon and a space: `seed: 1`."),
        ("name = x\n", 1, "recipe-not-a-mapping", "Write a colon and a space: `name: x`."),
        ("a: “x\"\n", 1, "yaml-characters", 'Write "x".'),
        ("b: 1\na: \"x”\n", 3, "yaml-syntax", "Line 2 has typographic quotes: write straight quotes."),
        ("a:\n  path:p.jsonl\n  split: train\n", 3, "yaml-syntax", "Line 2: write a space after the colon: `path: p.jsonl`."),
        ("name:x\nmodel:\n  a: 1\n", 2, "yaml-syntax", "Line 1: write a space after the colon: `name: x`."),
        ("a:\n  path：p.jsonl\n  split: train\n", 3, "yaml-syntax", "`path: p.jsonl`"),
        ("name:x\n", 1, "recipe-not-a-mapping", "Write a space after the colon: `name: x`."),
    ],
)  # fmt: skip
def test_misleading_characters_are_named_with_line_and_remedy(text: str, line: int, code: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text, "x.yaml")
    (problem,) = caught.value.problems
    assert (problem.code, problem.line) == (code, line)
    assert words in f"{problem.message} {problem.remedy}"


@pytest.mark.parametrize(
    "text",
    [
        "a: https://x.y/z\n", "a: C:\\data\n", "a: he said “no” twice\n", "a: it’s\n", "a: 'x\u00a0'\n", 'a: "“x”"\n', "a: x\u00a0y\n",
        "a: |\n  \u00a0x\n  “y”\n", "a: 12:30\n", "é: ñ\n", "a: hf::some/data\n", "a: ‘tis\n",
    ],
)  # fmt: skip
def test_other_text_is_read_as_it_is_written(text: str) -> None:
    assert plain_values(read_yaml(text, "x.yaml"))


@pytest.mark.parametrize("text", ["“x”", "x\u00a0", "\u3000x", "‘x’", "it’s", "x\u00a0y"])
def test_the_writer_quotes_what_the_reader_refuses(text: str) -> None:
    assert plain_values(read_yaml(f"a: {inline_yaml(text)}\n", "x.yaml")) == {"a": text}


def test_a_value_from_the_command_line_is_refused_too() -> None:
    with pytest.raises(RecipeError, match="typographic quotes"):
        read_value("“x”", Origin("--set"))
