"""YAML reader: YAML 1.2 with line numbers, in which ``5e-6`` is a number and ``no`` is text.

A recipe is data: tags that create objects, duplicate keys and aliases that multiply are refused. The events of the parser are
processed one by one, so that a malicious file is refused as soon as it is too deep or too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.source.nodes import MappingNode, Node, Origin, ScalarNode, SequenceNode, plain_values
from orpo_cli.recipe.source.yaml_characters import misleading_characters, missing_space, syntax_remedy

MAX_BYTES = 200_000  # shipped recipes have about 2,000
MAX_VALUES = 10_000  # after aliases are expanded
MAX_DEPTH = 50
MAX_INT = 2**63 - 1
FORBIDDEN_CHARACTERS = re.compile("[\0\ud800-\udfff]")  # possible only as escapes: NUL and surrogates

Event = Any  # the type stubs of pyyaml lack the attributes of events

_TAG = "tag:yaml.org,2002:"
SCALAR_KINDS = tuple(  # scalars of the YAML 1.2 core schema
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
    """The text of a file, with line feeds as line ends. Raises RecipeError with the line if it is not UTF-8."""
    _check_size(len(data), file)
    try:
        return data.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode().replace("\r\n", "\n").replace("\r", "\n")
        origin = Origin(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        byte = f"{data[error.start]:02x}"
        raise _syntax_error(f"the byte {byte} is not UTF-8 text.", origin) from None


def read_yaml(text: str, file: str) -> MappingNode:
    """Parse ``text``. Raises RecipeError with the line."""
    _check_size(len(text), file)
    root = _TreeBuilder(text, file).document()
    if root is None:
        raise _error("recipe-empty", "the recipe is empty.", Origin(file, 1, 1), "Start from `orpo init`.")
    if not isinstance(root, MappingNode):
        text = root.value if isinstance(root, ScalarNode) and isinstance(root.value, str) else ""
        raise _error(
            "recipe-not-a-mapping",
            "a recipe must be a mapping of sections (`model:`, `dataset:`, …).",
            root.origin,
            missing_space(text.partition(" ")[0]) or missing_space(text),
        )
    return root


def _check_size(size: int, file: str) -> None:
    if size > MAX_BYTES:
        raise _error(
            "recipe-too-large", f"a recipe has at most {MAX_BYTES:,} bytes; this file has more.", Origin(file, 1, 1)
        )


def read_value(text: str, origin: Origin) -> Node:
    """Read one value that is not from a file as YAML; text that is not valid YAML is returned unchanged.

    All nodes get ``origin``. Raises RecipeError for content that is not allowed in a recipe.
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
    if not isinstance(root, MappingNode) or root.nodes.keys() != {"value"}:
        return as_text  # several lines, of which the first looks like a value
    value = root.nodes["value"]
    if isinstance(value, ScalarNode) and isinstance(value.value, str) and text[0] not in "'\"!":
        return as_text  # including what would be a comment in a file
    return value


def parse_value(text: str) -> Any:
    """``read_value`` as plain values; content that is not allowed in a recipe stays text."""
    try:
        return plain_values(read_value(text, Origin("")))
    except RecipeError:
        return text


class _TreeBuilder:
    """Builder of a tree from the events of the parser. ``fixed`` is the origin of all nodes of a value that is not from a file."""

    def __init__(self, text: str, file: str, fixed: Origin | None = None) -> None:
        self.file, self.fixed = file, fixed
        self.events = self.parse(text)
        self.anchors: dict[str, tuple[Node, int]] = {}  # with the number of values in it
        self.count = 0

    def parse(self, text: str) -> Iterator[Event]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            detail = "; ".join(part for part in (error.context, error.problem) if part)
            mark = error.problem_mark or error.context_mark
            remedy = "Indent with spaces; YAML does not allow tabs there." if "'\\t'" in detail else None
            if remedy is None and mark is not None and self.fixed is None:
                first = error.context_mark.line + 1 if error.context_mark else None
                remedy = syntax_remedy(text.split("\n"), mark.line + 1, first)
            raise _syntax_error(f"{detail}.", self.position(mark), remedy) from None
        except yaml.YAMLError as error:
            position = getattr(error, "position", None)
            line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
            raise RecipeError([Problem("yaml-syntax", f"not valid YAML: {error}", file=self.file, line=line)]) from None

    def document(self) -> Node | None:
        """The root; None if the text is empty."""
        next(self.events)  # start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        first = next(self.events)
        root = self.node(first, self.position(first.start_mark), 0)
        next(self.events)  # end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _syntax_error("a second document starts.", self.position(after.start_mark))
        return root

    def node(self, event: Event, origin: Origin, depth: int) -> Node:
        """The value that starts with ``event``; ``origin`` is the position of its key."""
        position = self.position(event.start_mark)
        before = self.count
        self.count_values(1, position)
        if depth > MAX_DEPTH:
            raise _error("yaml-too-deep", "values are nested too deeply.", position)
        node: Node
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _syntax_error(f"there is no anchor `&{event.anchor}` above.", position)
            shared, size = self.anchors[event.anchor]
            self.count_values(size, position)
            return replace(shared, origin=origin)
        if isinstance(event, yaml.MappingStartEvent):
            self.allowed_kind(event, position, "map")
            node = self.mapping(origin, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.allowed_kind(event, position, "seq")
            node = SequenceNode(tuple(self.items(depth)), origin)
        else:
            node = ScalarNode(self.scalar(event), origin)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.count - before)
        return node

    def items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.node(event, self.position(event.start_mark), depth + 1)

    def mapping(self, origin: Origin, depth: int) -> MappingNode:
        written: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            position = self.position(event.start_mark)
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
                merged = {**self.merge_keys(next(self.events), depth), **merged}
                continue
            key = self.scalar(event, is_key=True) if isinstance(event, yaml.ScalarEvent) else None
            if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
                key = str(key)  # the number of a device in max_memory
            if not isinstance(key, str):
                raise _error("yaml-key", "a key must be text.", position)
            if key in written:
                first = written[key].origin.line
                first_line = "" if first is None else f"; the first one is on line {first}"
                raise _error("duplicate-key", f"the key `{key}` occurs twice{first_line}.", position)
            written[key] = self.node(next(self.events), position, depth + 1)
        return MappingNode({**merged, **written}, origin)

    def merge_keys(self, event: Event, depth: int) -> dict[str, Node]:
        """The keys that `<<` inserts: those of a mapping, or of a list of mappings, of which the first has precedence."""
        node = self.node(event, self.position(event.start_mark), depth)
        parts = node.nodes if isinstance(node, SequenceNode) else (node,)
        keys: dict[str, Node] = {}
        for part in parts:
            if not isinstance(part, MappingNode):
                raise _error("yaml-merge-key", "the value of `<<` must be a mapping.", part.origin)
            keys = {**part.nodes, **keys}
        return keys

    def scalar(self, event: Event, *, is_key: bool = False) -> str | int | float | bool | None:
        position = self.position(event.start_mark)
        if event.style is None and not event.value.isascii():
            if found := misleading_characters(event.value, is_key=is_key):
                raise _error("yaml-characters", found[0], position, found[1])
        kind = self.allowed_kind(event, position, "str", "bool", "int", "float", "null")
        text = event.value
        if kind == "null":
            return None
        if kind == "bool":
            return bool(text.lower() == "true")
        if kind == "int":
            number = int(text, 10 if text.lstrip("+-").isdigit() else 0) if len(text) <= 30 else MAX_INT + 1
            if abs(number) > MAX_INT:
                raise _error("invalid-value", "an integer has at most 19 digits.", position)
            return number
        if kind == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        if FORBIDDEN_CHARACTERS.search(text):
            raise _syntax_error("the text has a NUL character or a surrogate.", position)
        return str(text)

    def allowed_kind(self, event: Event, position: Origin, *kinds: str) -> str:
        """The kind of the value that starts with ``event``. Raises RecipeError if it is not one of ``kinds``."""
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
            raise _error("yaml-tag", f"the tag {event.tag} is not allowed in a recipe.", position)
        if kind in ("str", plain) or (kind, plain) == ("float", "int"):
            return kind
        raise _syntax_error(f"`{event.value}` is not of the type {kind}.", position)

    def count_values(self, values: int, position: Origin) -> None:
        self.count += values
        if self.count > MAX_VALUES:
            message = f"the recipe has more than {MAX_VALUES:,} values (aliases expanded)."
            raise _error("recipe-too-large", message, position)

    def position(self, mark: Any) -> Origin:
        if self.fixed is not None:
            return self.fixed
        return Origin(self.file, mark.line + 1, mark.column + 1) if mark is not None else Origin(self.file, 1, 1)


def _syntax_error(message: str, origin: Origin, remedy: str | None = None) -> RecipeError:
    return _error("yaml-syntax", f"not valid YAML: {message}", origin, remedy)


def _error(code: str, message: str, origin: Origin, remedy: str | None = None) -> RecipeError:
    return RecipeError([Problem(code, message, "", origin.file, origin.line, origin.column, remedy)])
