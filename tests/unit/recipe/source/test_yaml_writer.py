"""YAML writer: written values are read back unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_cli.recipe.source.env_vars import expand_env_vars
from orpo_cli.recipe.source.nodes import Origin, plain_values
from orpo_cli.recipe.source.yaml_reader import read_value, read_yaml
from orpo_cli.recipe.source.yaml_writer import inline_yaml, yaml_lines

TEXTS = [
    "5e-6", "1e3", "no", "on", "null", "~", "", "0o10", "0x1F", "1_000", "true", "2020-01-01", "a: b", "- a", "#x", "a #b",
    "'q'", '"dq"', "a\nb", "a\n b \n", "\n", "\ttab", "é", "x" * 200, "${A}", "$${A}", "{a}", "[1", "*a", "&a", "!t", "|",
    "%", "=", "<<", ".5", "5.", "1:30", "\u2028", "\x85", "a\r\nb", " lead", "trail ", "several\n\nlines\n",
    "{% for m in messages %}\n  {{ m['role'] }}: \"{{ m.content }}\"\n{% endfor %}\n\n", "$${A}\n${B}\n", "a \n\n b", "word " * 3000,
]  # fmt: skip


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # not allowed in a recipe


def read_back(value: Any) -> Any:
    return plain_values(
        expand_env_vars(read_yaml("".join(f"{line}\n" for line in yaml_lines("key", value)), "x.yaml"), {})
    )["key"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_read_back(text: str) -> None:
    assert read_back(text) == text
    assert read_back({"a": [text, {"b": text}]}) == {"a": [text, {"b": text}]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63) + 1, 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text(CHARACTERS, max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(CHARACTERS, min_size=1, max_size=8), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_value_is_read_back(value: Any) -> None:
    assert read_back(value) == value


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_on_one_line_is_read_back_as_a_value_of_the_command_line(text: str) -> None:
    for value in (text, [text], {"a": [text, {"b": text}]}):
        written = inline_yaml(value)
        assert "\n" not in written
        assert plain_values(read_value(written, Origin("--set"))) == value


@given(st.text(CHARACTERS, max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_random_text_on_one_line_is_read_back(text: str) -> None:
    assert plain_values(read_value(inline_yaml(text), Origin("--set"))) == text


def test_text_with_line_breaks_is_a_block_of_a_recipe() -> None:
    assert yaml_lines("key", "a\n  b\n") == ["key: |", "  a", "    b"]
    assert yaml_lines("key", {"a": "x\ny" * 40})[:3] == ["key:", "  a: |-", "    x"]


def test_short_values_are_written_on_one_line() -> None:
    assert yaml_lines("key", {"a": 1e-5, "b": ["x", "no"]}) == ["key: {a: 1.0e-5, b: [x, 'no']}"]
