"""YAML with line numbers, read as YAML 1.2 reads it: ``5e-6`` is a number and ``no`` is a word.

A recipe is data: tags that build objects, duplicate keys and documents that unfold without end are refused. The parser's
events are read one by one, so that a hostile file is refused where it becomes too deep or too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.source.nodes import MappingNode, Node, Origin, ScalarNode, SequenceNode, plain_values

MAX_BYTES = 200_000  # shipped recipes have 2,000
MAX_VALUES = 10_000  # after aliases are unfolded
MAX_DEPTH = 50
MAX_INT = 2**63 - 1
FORBIDDEN_CHARACTERS = re.compile("[\0\ud800-\udfff]")  # what only an escape can write: NUL, and halves of characters

Event = Any  # the stubs of pyyaml do not say what its events hold

_TAG = "tag:yaml.org,2002:"
SCALAR_KINDS = tuple(  # the scalars of YAML 1.2's core schema
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("null", r"~|null|Null|NULL|"),
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
        (
            "float",
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        ),
    )
)


def decode_text(data: bytes, file: str) -> str:
    """The text of a file, with lines that end in a line feed. Raises RecipeError, which names the line, for what is no text."""
    _check_size(len(data), file)
    try:
        return data.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode().replace("\r\n", "\n").replace("\r", "\n")
        place = Origin(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        byte = f"{data[error.start]:02x}"
        raise _error("yaml-syntax", f"not valid YAML: the byte {byte} here is not UTF-8 text.", place) from None


def read_yaml(text: str, file: str) -> MappingNode:
    """Parse ``text``. Raises RecipeError, which names the line."""
    _check_size(len(text), file)
    root = _TreeBuilder(text, file).document()
    if root is None:
        raise _error("recipe-empty", "the recipe is empty.", Origin(file, 1, 1), "Start from `orpo init`.")
    if not isinstance(root, MappingNode):
        raise _error(
            "recipe-not-a-mapping", "a recipe is a mapping of sections (`model:`, `dataset:`, …).", root.origin
        )
    return root


def _check_size(size: int, file: str) -> None:
    if size > MAX_BYTES:
        raise _error(
            "recipe-too-large", f"a recipe may have {MAX_BYTES:,} bytes; this file has more.", Origin(file, 1, 1)
        )


def read_value(text: str, origin: Origin) -> Node:
    """One value from outside a file, read as YAML; plain text, and what is not valid YAML, stays as it is.

    Every node gets ``origin``. Raises RecipeError for what a recipe must not hold.
    """
    as_text = ScalarNode(text, origin)
    if not text or len(text) > MAX_BYTES:
        return as_text
    try:
        root = _TreeBuilder(f"value: {text}", origin.file, origin).document()
    except RecipeError as error:
        if error.problems[0].code == "yaml-syntax":
            return as_text
        raise
    if not isinstance(root, MappingNode) or set(root.nodes) != {
        "value"
    }:  # several lines, of which the first looks like a value
        return as_text
    value = root.nodes["value"]
    if isinstance(value, ScalarNode) and isinstance(value.value, str) and text[0] not in "'\"!":
        return as_text  # with what would be a comment in a file
    return value


def parse_value(text: str) -> Any:
    """``read_value`` as plain values; what a recipe must not hold stays text."""
    try:
        return plain_values(read_value(text, Origin("")))
    except RecipeError:
        return text


class _TreeBuilder:
    """Turns the parser's events into a tree. ``fixed`` is the origin of every node, for a value from outside a file."""

    def __init__(self, text: str, file: str, fixed: Origin | None = None) -> None:
        self.file, self.fixed = file, fixed
        self.events = self.parsed(text)
        self.anchors: dict[str, tuple[Node, int]] = {}  # with the number of values in it
        self.count = 0

    def parsed(self, text: str) -> Iterator[Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            detail = "; ".join(part for part in (error.context, error.problem) if part)
            mark = error.problem_mark or error.context_mark
            remedy = "Indent with spaces; YAML has no tabs there." if "'\\t'" in detail else None
            raise _error("yaml-syntax", f"not valid YAML: {detail}.", self.at(mark), remedy) from None
        except yaml.YAMLError as error:
            position = getattr(error, "position", None)
            line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
            raise RecipeError([Problem("yaml-syntax", f"not valid YAML: {error}", file=self.file, line=line)]) from None

    def document(self) -> Node | None:
        """The root; None where the text holds nothing."""
        next(self.events)  # the stream starts
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        first = next(self.events)
        root = self.node(first, self.at(first.start_mark), 0)
        next(self.events)  # the document ends
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _error(
                "yaml-syntax", "not valid YAML for a recipe: a second document begins.", self.at(after.start_mark)
            )
        return root

    def node(self, event: Event, origin: Origin, depth: int) -> Node:
        """The value that ``event`` begins; ``origin`` is the place of its key."""
        here = self.at(event.start_mark)
        before = self.count
        self.counted(1, here)
        if depth > MAX_DEPTH:
            raise _error("yaml-too-deep", "values are nested too deeply.", here)
        node: Node
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _error("yaml-syntax", f"not valid YAML: no value above is marked `&{event.anchor}`.", here)
            shared, size = self.anchors[event.anchor]
            self.counted(size, here)
            return replace(shared, origin=origin)
        if isinstance(event, yaml.MappingStartEvent):
            self.allow(event, here, "map")
            node = self.mapping(origin, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.allow(event, here, "seq")
            node = SequenceNode(tuple(self.items(depth)), origin)
        else:
            node = ScalarNode(self.scalar(event), origin)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.count - before)
        return node

    def items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.node(event, self.at(event.start_mark), depth + 1)

    def mapping(self, origin: Origin, depth: int) -> MappingNode:
        written: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place = self.at(event.start_mark)
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                merged = {**self.merged(next(self.events), depth), **merged}
                continue
            key = self.scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
                key = str(key)  # of a device in max_memory
            if not isinstance(key, str):
                raise _error("yaml-key", "a key must be a word.", place)
            if key in written:
                first = written[key].origin.line
                before = "twice" if first is None else f"before, on line {first}"
                raise _error("duplicate-key", f"the key `{key}` was given {before}.", place)
            written[key] = self.node(next(self.events), place, depth + 1)
        return MappingNode({**merged, **written}, origin)

    def merged(self, event: Event, depth: int) -> dict[str, Node]:
        """What `<<` brings in: the keys of a mapping, or of several, the first of which wins."""
        place = self.at(event.start_mark)
        node = self.node(event, place, depth)
        parts = node.nodes if isinstance(node, SequenceNode) else (node,)
        keys: dict[str, Node] = {}
        for part in parts:
            if not isinstance(part, MappingNode):
                raise _error("yaml-merge-key", "`<<` takes a mapping.", part.origin)
            keys = {**part.nodes, **keys}
        return keys

    def scalar(self, event: Event) -> str | int | float | bool | None:
        place = self.at(event.start_mark)
        kind = self.allow(event, place, "str", "bool", "int", "float", "null")
        text = event.value
        if kind == "null":
            return None
        if kind == "bool":
            return bool(text.lower() == "true")
        if kind == "int":
            number = int(text, 10 if text.lstrip("+-").isdigit() else 0) if len(text) <= 30 else MAX_INT + 1
            if abs(number) > MAX_INT:
                raise _error("invalid-value", "a whole number has at most 19 digits.", place)
            return number
        if kind == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        if FORBIDDEN_CHARACTERS.search(text):
            raise _error(
                "yaml-syntax", "not valid YAML: the text has a character that no file or name may have.", place
            )
        return str(text)

    def allow(self, event: Event, place: Origin, *kinds: str) -> str:
        """The kind of value that ``event`` is, which must be one of ``kinds``."""
        if isinstance(event, yaml.CollectionStartEvent):
            plain = kinds[0]
        elif event.implicit[1] and not event.implicit[0]:
            plain = "str"  # quoted
        else:
            plain = next((kind for kind, pattern in SCALAR_KINDS if pattern.fullmatch(event.value)), "str")
        if event.tag is None or event.tag == "!":
            return plain if event.tag is None else kinds[0]
        kind = str(event.tag).removeprefix(_TAG)
        if kind not in kinds:
            raise _error("yaml-tag", f"the tag {event.tag} is not allowed in a recipe.", place)
        if kind in ("str", plain) or (kind, plain) == ("float", "int"):
            return kind
        raise _error("yaml-syntax", f"not valid YAML: `{event.value}` is not of the kind {kind}.", place)

    def counted(self, values: int, place: Origin) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            raise _error("recipe-too-large", f"the recipe unfolds to more than {MAX_VALUES:,} values.", place)

    def at(self, mark: Any) -> Origin:
        if self.fixed is not None:
            return self.fixed
        return Origin(self.file, mark.line + 1, mark.column + 1) if mark is not None else Origin(self.file, 1, 1)


def _error(code: str, message: str, origin: Origin, remedy: str | None = None) -> RecipeError:
    return RecipeError(
        [Problem(code, message, file=origin.file, line=origin.line, column=origin.column, remedy=remedy)]
    )
