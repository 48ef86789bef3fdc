"""A draft as the text of a recipe: sections in their order, beside a value what it was called, below what was lost."""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Iterable

from orpo_cli.recipe.convert.draft import Draft, KeyOutcome
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.nodes import Path
from orpo_cli.recipe.source.yaml_writer import WIDTH, inline_yaml, yaml_lines

_EMPTY = ("Empty, or off with nothing to switch off here", "At the library's default, or asking for nothing")


def recipe_text(draft: Draft, file: str) -> str:
    """The recipe as YAML with comments."""
    head = [
        f"# Converted from {_single_line(file)} ({draft.tool}) by `orpo convert`. Beside a value stands what it was called there."
    ]
    parts = ["\n".join([*head, *(line for remark in draft.remarks for line in _wrap(remark, ""))])]
    offered = [
        outcome.path for outcome in draft.outcomes.values() if outcome.outcome == "ignored" and outcome.path is not None
    ]
    paths = sorted(dict.fromkeys([*draft.values, *offered]), key=_schema_order)
    for name in dict.fromkeys(path[0] for path in paths):
        parts.append("\n".join(_section(draft, [path for path in paths if path[0] == name], 0)))
    parts += _remarks(draft, set(paths))
    return "\n\n".join(parts) + "\n"


def _schema_order(path: Path) -> tuple[int, ...]:
    """Where the schema has a path: sections in their order, and the keys of each in theirs."""
    sections = list(Recipe.model_fields)
    annotation = Recipe.model_fields[str(path[0])].annotation
    models = [each for each in (annotation, *typing.get_args(annotation)) if hasattr(each, "model_fields")]
    keys = list(models[0].model_fields) if models else []
    return (sections.index(str(path[0])), *(keys.index(str(part)) for part in path[1:2]))


def _section(draft: Draft, paths: list[Path], depth: int) -> list[str]:
    """The lines of what lies below one key; all ``paths`` agree in their first ``depth`` + 1 parts."""
    key, indent = paths[0][depth], "  " * depth
    if len(paths) == 1 and len(paths[0]) == depth + 1:
        return _value(draft, paths[0], indent)
    lines = [] if isinstance(key, int) else [f"{indent}{key}:"]
    if all(path not in draft.values for path in paths):
        lines = [f"{indent}# {key}:"]
    for inner in dict.fromkeys(path[depth + 1] for path in paths):
        lines += _section(draft, [path for path in paths if path[depth + 1] == inner], depth + 1)
    if isinstance(key, int):  # a list item: its first line of values gets the dash, comments go before that
        first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
        lines[: first + 1] = [line[2:] for line in lines[:first]] + [f"{indent}- {lines[first].lstrip()}"]
    return lines


def _value(draft: Draft, path: Path, indent: str) -> list[str]:
    """The lines of one value with its comment, beside it where it is short, above it otherwise."""
    outcomes = [
        outcome
        for outcome in draft.outcomes.values()
        if outcome.path == path and outcome.outcome in ("kept", "ignored")
    ]
    if path not in draft.values:
        offer = next(outcome for outcome in outcomes if outcome.outcome == "ignored")
        lines = [f"{indent}# {line}" for line in yaml_lines(str(path[-1]), offer.offer)]
        return [*_wrap(_original_name(offer), indent), *lines]
    lines = [indent + line for line in yaml_lines(str(path[-1]), draft.values[path])]
    comment = _comment(draft, path, outcomes)
    if comment and len(lines) == 1 and len(lines[0]) + len(comment) + 3 <= WIDTH:
        return [f"{lines[0]} # {comment}"]
    return [*_wrap(comment, indent), *lines]


def _comment(draft: Draft, path: Path, outcomes: Iterable[KeyOutcome]) -> str:
    kept = [outcome for outcome in outcomes if outcome.outcome == "kept"]
    added = draft.additions.get(path)
    if added is not None:
        return _single_line(f"TODO: {added.note}" if added.todo else added.note)
    return _single_line("; ".join(part for outcome in kept if (part := _original_name(outcome))))


def _original_name(outcome: KeyOutcome) -> str:
    """What a value was called, where that is another name, and the note on it."""
    name = "" if outcome.path is not None and outcome.key.rpartition(".")[2] == outcome.path[-1] else outcome.key
    return ": ".join(part for part in (name, outcome.note) if part)


def _remarks(draft: Draft, written: set[Path]) -> list[str]:
    """Blocks of comments on what stands nowhere above: every key of the source is somewhere."""
    groups: dict[str, list[KeyOutcome]] = {}
    inner = {
        outcome.key.partition(".")[0].partition("[")[0]
        for outcome in draft.outcomes.values()
        if re.search(r"[.\[]", outcome.key)
    }
    for outcome in draft.outcomes.values():
        if outcome.key not in inner and (outcome.outcome not in ("kept", "ignored") or outcome.path not in written):
            groups.setdefault(outcome.outcome, []).append(outcome)
    titles = {
        "kept": "Kept in another way:",
        "ignored": f"Ignored by {draft.tool} itself:",
        "left-out": "Left out:",
        "unknown": f"Unknown to {draft.tool} as this converter knows it:",
    }
    blocks = ["\n".join([f"# {title}", *_entries(groups[name])]) for name, title in titles.items() if name in groups]
    if "empty" in groups:
        names = f"{_EMPTY[draft.tool == 'orpo-config']}: " + ", ".join(outcome.key for outcome in groups["empty"]) + "."
        blocks.append("\n".join(_wrap(names, "")))
    return blocks


def _entries(outcomes: list[KeyOutcome]) -> list[str]:
    """The lines of one block; keys with the same note stand together."""
    lines = []
    for note in dict.fromkeys(outcome.note for outcome in outcomes):
        for outcome in outcomes:
            if outcome.note == note:
                shown = _single_line(inline_yaml(outcome.value))
                lines.append(f"#   {_single_line(outcome.key)}: {shown if len(shown) <= 70 else shown[:69] + '…'}")
        lines += _wrap(note, "", "#     ") if note else []
    return lines


def _single_line(text: str) -> str:
    """``text`` as a comment can hold it."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _wrap(text: str, indent: str, start: str = "# ") -> list[str]:
    return [indent + start + line for line in textwrap.wrap(_single_line(text), WIDTH - len(indent) - len(start))]
