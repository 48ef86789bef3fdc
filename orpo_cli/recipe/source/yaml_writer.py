"""YAML writer: values as the text of a recipe, which this reader and readers of YAML 1.1 read as the same values."""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from orpo_cli.recipe.source.yaml_characters import needs_quotes
from orpo_cli.recipe.source.yaml_reader import SCALAR_KINDS

WIDTH = 110


class EnvReference(str):
    """Text whose references to environment variables are written as references."""


def yaml_lines(key: str, value: Any) -> list[str]:
    """The lines of ``key: value``, one line if it is short. Text that looks like a reference is escaped, unless it is EnvReference."""
    value = _literal(value)
    line = f"{inline_yaml(key)}: {inline_yaml(value)}"
    if len(line) <= WIDTH and not (isinstance(value, str) and "\n" in value):
        return [line]
    return _dump({key: value}, flow=False).splitlines()


def inline_yaml(value: Any) -> str:
    """``value`` on one line, as ``--set`` and ``--grid`` read it: text with line breaks is in double quotes."""
    return _dump(value, flow=True).removesuffix("...\n").strip()


def block_yaml(value: Any) -> str:
    """A YAML document, with the text as it is: for files of other tools."""
    return _dump(value, flow=False)


def _literal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    literal = isinstance(value, str) and not isinstance(value, EnvReference)
    return value.replace("${", "$${") if literal else value


def _dump(value: Any, *, flow: bool) -> str:
    text = yaml.dump(
        value, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=sys.maxsize, default_flow_style=flow
    )
    return str(text)


class _RecipeDumper(yaml.SafeDumper):
    """SafeDumper that quotes text that YAML 1.2 would read as a number.

    Text with line breaks is a block, or, where collections are in flow style, in double quotes: ``read_value`` reads no blocks.
    """

    def ignore_aliases(self, data: Any) -> bool:
        """Write no aliases: a recipe has no anchors."""
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if exponent and "." not in mantissa:
        text = f"{mantissa}.0e{exponent}"  # 1.0e-05 is also a number in YAML 1.1
    text = re.sub(r"e([-+]?)0+", r"e\1", text)
    return dumper.represent_scalar("tag:yaml.org,2002:float", text.replace("inf", ".inf").replace("nan", ".nan"))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    inline = dumper.default_flow_style
    block = not inline and "\n" in value and value.strip() and not re.search(r"[ \t]\n", value)
    breaks = "[\n\r\x85\u2028\u2029]" if inline else "[\r\x85\u2028\u2029]"
    quoted = re.search(breaks, value) or (not block and not value.isascii() and needs_quotes(value))
    style = '"' if quoted else "|" if block else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_RecipeDumper.add_representer(float, _float)
_RecipeDumper.add_representer(str, _text)
_RecipeDumper.add_representer(EnvReference, _text)
for _kind, _pattern in SCALAR_KINDS:  # in addition to those of YAML 1.1 in SafeDumper
    _RecipeDumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern.pattern})$"), None)
