"""Recipe text: the values of a draft in schema order, original names in comments, and the keys that were not converted."""

from __future__ import annotations

import re
import textwrap
import typing
from collections.abc import Iterable

from orpo_cli.recipe.convert.draft import Draft, KeyOutcome
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.nodes import Path
from orpo_cli.recipe.source.yaml_writer import WIDTH, inline_yaml, yaml_lines

_EMPTY = ("Empty, or turns off a feature that is off here", "Default value of the library, or without effect")


def recipe_text(draft: Draft, file: str) -> str:
    """YAML text of the recipe, with comments."""
    head = f"# Converted from {_single_line(file)} ({draft.tool}) by `orpo convert`. Comments show the original names."
    parts = ["\n".join([head, *(line for remark in draft.remarks for line in _wrap(remark, ""))])]
    offers = [outcome.path for outcome in draft.outcomes.values() if outcome.outcome == "ignored" and outcome.path]
    paths = sorted(dict.fromkeys([*draft.values, *offers]), key=_schema_order)
    for name in dict.fromkeys(path[0] for path in paths):
        parts.append("\n".join(_section(draft, [path for path in paths if path[0] == name], 0)))
    parts += _comment_blocks(draft, set(paths))
    return "\n\n".join(parts) + "\n"


def _schema_order(path: Path) -> tuple[int, ...]:
    """Sort key of a path: position of its section in the schema, then of its key in the section."""
    sections = list(Recipe.model_fields)
    annotation = Recipe.model_fields[str(path[0])].annotation
    models = [model for model in (annotation, *typing.get_args(annotation)) if hasattr(model, "model_fields")]
    keys = list(models[0].model_fields) if models else []
    return (sections.index(str(path[0])), *(keys.index(str(part)) for part in path[1:2]))


def _section(draft: Draft, paths: list[Path], depth: int) -> list[str]:
    """Lines of one key and the keys below it; all ``paths`` have the same first ``depth`` + 1 parts."""
    key, indent = paths[0][depth], "  " * depth
    if len(paths) == 1 and len(paths[0]) == depth + 1:
        return _value(draft, paths[0], indent)
    lines = [] if isinstance(key, int) else [f"{indent}{key}:"]
    if all(path not in draft.values for path in paths):
        lines = [f"{indent}# {key}:"]
    for inner in dict.fromkeys(path[depth + 1] for path in paths):
        lines += _section(draft, [path for path in paths if path[depth + 1] == inner], depth + 1)
    if isinstance(key, int):  # a list item: the dash is on its first line that is not a comment
        first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
        lines[: first + 1] = [line[2:] for line in lines[:first]] + [f"{indent}- {lines[first].lstrip()}"]
    return lines


def _value(draft: Draft, path: Path, indent: str) -> list[str]:
    """Lines of one value and its comment: on the same line if it fits, otherwise above."""
    outcomes = [outcome for outcome in draft.outcomes.values() if outcome.path == path]
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
    if addition := draft.additions.get(path):
        return _single_line(f"TODO: {addition.note}" if addition.todo else addition.note)
    return _single_line("; ".join(part for outcome in kept if (part := _original_name(outcome))))


def _original_name(outcome: KeyOutcome) -> str:
    """Original name of a value, if it is another name, and its note."""
    name = "" if outcome.path is not None and outcome.key.rpartition(".")[2] == outcome.path[-1] else outcome.key
    return ": ".join(part for part in (name, outcome.note) if part)


def _comment_blocks(draft: Draft, written_paths: set[Path]) -> list[str]:
    """Comment blocks with the keys that are not at a path in ``written_paths``, so that the recipe mentions every key."""
    groups: dict[str, list[KeyOutcome]] = {}
    inner = {
        outcome.key.partition(".")[0].partition("[")[0]
        for outcome in draft.outcomes.values()
        if re.search(r"[.\[]", outcome.key)
    }
    for outcome in draft.outcomes.values():
        if outcome.key not in inner and (
            outcome.outcome not in ("kept", "ignored") or outcome.path not in written_paths
        ):
            groups.setdefault(outcome.outcome, []).append(outcome)
    titles = {
        "kept": "Kept as part of other settings:",
        "ignored": f"Ignored by {draft.tool} itself:",
        "left-out": "Left out:",
        "unknown": f"Unknown to {draft.tool}, as far as the converter knows:",
    }
    blocks = ["\n".join([f"# {title}", *_entries(groups[name])]) for name, title in titles.items() if name in groups]
    if "empty" in groups:
        names = f"{_EMPTY[draft.tool == 'orpo-config']}: " + ", ".join(outcome.key for outcome in groups["empty"]) + "."
        blocks.append("\n".join(_wrap(names, "")))
    return blocks


def _entries(outcomes: list[KeyOutcome]) -> list[str]:
    """Lines of one block; keys with the same note are grouped."""
    lines = []
    for note in dict.fromkeys(outcome.note for outcome in outcomes):
        for outcome in outcomes:
            if outcome.note == note:
                shown = _single_line(inline_yaml(outcome.value))
                lines.append(f"#   {_single_line(outcome.key)}: {shown if len(shown) <= 70 else shown[:69] + '…'}")
        lines += _wrap(note, "", "#     ") if note else []
    return lines


def _single_line(text: str) -> str:
    """Copy of ``text`` on one line, with unprintable characters replaced, as a comment requires."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _wrap(text: str, indent: str, start: str = "# ") -> list[str]:
    return [indent + start + line for line in textwrap.wrap(_single_line(text), WIDTH - len(indent) - len(start))]
