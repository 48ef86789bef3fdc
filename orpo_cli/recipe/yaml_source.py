"""YAML with line numbers, read as YAML 1.2 reads it: ``5e-6`` is a number and ``no`` is a word.

A recipe is data: tags that build objects, duplicate keys and documents that unfold without end are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from orpo_cli.errors import Problem, RecipeError

MAX_BYTES = 200_000  # shipped recipes have 2,000
MAX_VALUES = 10_000  # after aliases are unfolded

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Where a key or list item starts; both count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """A YAML file as plain values, with the place of each."""

    file: str
    values: dict[str, Any]
    marks: dict[Path, Mark] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - pyyaml declares it so


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def read_yaml(text: str, file: str) -> Document:
    """Parse ``text``. Raises RecipeError, which names the line."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _error(file, "too-large", f"a recipe may have {MAX_BYTES:,} bytes; this file has more.", None)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        detail = "; ".join(part for part in (error.context, error.problem) if part)
        raise _error(file, "yaml", f"not valid YAML: {detail}.", error.problem_mark or error.context_mark) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        raise RecipeError([Problem("yaml", f"not valid YAML: {error}", file=file, line=line)]) from None
    except RecursionError:
        raise _error(file, "too-deep", "values are nested too deeply.", None) from None
    if node is None:
        raise _error(file, "empty", "the recipe is empty.", None, "Start from `orpo init`.")
    if not isinstance(node, yaml.MappingNode):
        raise _error(
            file, "not-a-mapping", "a recipe is a mapping of sections (`model:`, `dataset:`, …).", node.start_mark
        )
    document = Document(file, {})
    try:
        document.values = _Builder(document).mapping(node, ())
    except RecursionError:
        raise _error(file, "too-deep", "values are nested too deeply.", None) from None
    return document


def parse_value(text: str) -> Any:
    """One value of ``--set``, read as YAML; text that is not valid YAML stays text."""
    try:
        return read_yaml(f"value: {text}" if text else "value: ''", "--set").values["value"]
    except RecipeError:
        return text


class _Builder:
    """Turns nodes into values, noting where each stands."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.error("too-large", f"the recipe unfolds to more than {MAX_VALUES:,} values.", node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.allow(node, "seq")
            for index, item in enumerate(node.value):
                self.mark((*path, index), item)
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self.allow(node, "map")
        values: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for part in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    merged = self.value(part, path)
                    if not isinstance(merged, dict):
                        raise self.error("merge", "`<<` takes a mapping.", part)
                    inherited = {**merged, **inherited}
                continue
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise self.error("key", "a key must be a word.", key_node)
            if key in values:
                first = self.document.marks[(*path, key)].line
                raise self.error("duplicate-key", f"the key `{key}` was given before, on line {first}.", key_node)
            self.mark((*path, key), key_node)
            values[key] = self.value(value_node, (*path, key))
        return {**inherited, **values}

    def scalar(self, node: yaml.Node) -> Any:
        kind = self.allow(node, "str", "bool", "int", "float", "null")
        if kind == "int":
            return int(node.value, 10 if node.value.lstrip("+-").isdigit() else 0)
        try:
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error("yaml", f"`{node.value}` is not a {kind}.", node) from error

    def allow(self, node: yaml.Node, *kinds: str) -> str:
        kind: str = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in kinds:
            raise self.error("tag", f"the tag {node.tag} is not allowed in a recipe.", node)
        return kind

    def mark(self, path: Path, node: yaml.Node) -> None:
        self.document.marks.setdefault(path, Mark(node.start_mark.line + 1, node.start_mark.column + 1))

    def error(self, code: str, message: str, node: yaml.Node) -> RecipeError:
        return _error(self.document.file, code, message, node.start_mark)


def _error(file: str, code: str, message: str, mark: yaml.Mark | None, remedy: str | None = None) -> RecipeError:
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    return RecipeError([Problem(code, message, file=file, line=line, column=column, remedy=remedy)])
