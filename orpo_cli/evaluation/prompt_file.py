"""Prompt files: texts, rows with a prompt or messages, preference data, or the recipe whose held-out pairs are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from orpo_cli.data.formats.conversations import INSTRUCTIONS, parse_turns
from orpo_cli.data.formats.detect import describe_columns, detect_format, find_column, rename_columns
from orpo_cli.data.formats.format import read_system, read_tools, with_system
from orpo_cli.data.json_text import parse_cells
from orpo_cli.data.media import check_text_only
from orpo_cli.data.messages import read_messages, read_text
from orpo_cli.data.pair import Message, RowRejected
from orpo_cli.data.sources.files import is_data_file, read_rows
from orpo_cli.errors import DataError, UsageError
from orpo_cli.evaluation.eval_target import EvalTarget
from orpo_cli.evaluation.held_out_pairs import load_held_out_pairs
from orpo_cli.evaluation.prompts import Prompt, PromptBuilder
from orpo_cli.nearest_path import near_path_remedy
from orpo_cli.planning.plan import Plan

PROMPT_COLUMNS = ("messages", "conversations", "prompt", "instruction", "question")
ID_COLUMNS = ("id", "key", "question_id")
SAMPLE_ROWS = 100  # that decide whether a file is preference data
REMEDY = (
    "Give a .txt with one prompt per line, rows with `prompt`, `messages`, `instruction` or `question`, preference data, or a recipe (.yaml). "
    "Columns of other names are those of the recipe's `columns`, or have to be renamed."
)


class PromptFileKind(Enum):
    """What a prompt file holds."""

    LINES = "lines"
    ROWS = "rows"
    PAIRS = "pairs"
    RECIPE = "recipe"


@dataclass(frozen=True)
class PromptSource:
    """Source of prompts: ``texts``, and a file of ``kind``. Without both: the held-out pairs of a run.

    ``system`` is for prompts without a system message, ``count`` for the prompts of the file or the run, ``plan`` for a recipe.
    ``columns``: of the rows of the file that have other names, format's name → data's name.
    """

    texts: Sequence[str] = ()
    file: Path | None = None
    kind: PromptFileKind | None = None
    plan: Plan | None = None
    count: int | None = None
    system: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def collect_prompts(
    target: EvalTarget, builder: PromptBuilder, source: PromptSource, note: Callable[[str], None]
) -> list[Prompt]:
    """Prompts of ``source``: its texts, then those of its file. Raises UsageError or DataError."""
    prompts = [builder.from_text(text, source.system) for text in source.texts]
    if source.file is not None and source.kind is PromptFileKind.LINES:
        lines = _read_lines(source.file, note)[: source.count]
        return prompts + [builder.from_text(line, source.system) for line in lines]
    if source.file is not None and source.kind is PromptFileKind.ROWS:
        return prompts + _read_prompt_rows(source.file, builder, source, note)
    if source.file is None and source.texts:
        return prompts
    of_recipe = source.kind is PromptFileKind.RECIPE
    asked = replace(target, rundir=None, plan=source.plan) if of_recipe else target
    data = None if source.file is None or of_recipe else str(source.file)
    pairs = load_held_out_pairs(asked, data=data, max_samples=source.count, note=note)
    return prompts + [_prompt_from_row(row) for row in pairs.rows]


def columns_of_run(path: Path, plan: Plan | None) -> dict[str, str]:
    """The columns of a training source of a run whose prompt a file of rows has, also without the answers; else none."""
    mapped = [source.columns for source in plan.dataset.train if source.columns] if plan is not None else []
    if not mapped or not path.is_file() or not is_data_file(path.name):
        return {}
    rows = [row for _, row in islice(read_rows(path), SAMPLE_ROWS) if isinstance(row, dict)]
    for columns in mapped:
        found = {key: name for key, name in columns.items() if any(find_column(row, name) for row in rows)}
        if found.keys() & set(PROMPT_COLUMNS):
            return found
    return {}


def prompt_file_kind(path: Path, option: str = "--prompts", columns: Mapping[str, str] = {}) -> PromptFileKind:
    """Kind of a prompt file, by its name and its first rows. Raises DataError where it cannot be read or is none.

    ``columns``: as ``PromptSource`` has them.
    """
    if not path.is_file():
        raise DataError(f"{option} {path}: no such file.", remedy=near_path_remedy(path, REMEDY, _may_have_prompts))
    if path.suffix.lower() in (".yaml", ".yml"):
        return PromptFileKind.RECIPE
    if path.suffix.lower() == ".txt":
        return PromptFileKind.LINES
    rows = [parse_cells(rename_columns(row, columns)) for _, row in islice(read_rows(path), SAMPLE_ROWS)]
    if not rows:
        raise DataError(f"{path} contains no prompt.", remedy=REMEDY)
    try:
        detect_format(rows, where=str(path), columns=columns)
    except DataError:
        if any(_prompt_column(row) for row in rows):
            return PromptFileKind.ROWS
        raise DataError(f"{path}: no row has a prompt; {describe_columns(rows)}.", remedy=REMEDY) from None
    return PromptFileKind.PAIRS


def _may_have_prompts(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in (".txt", ".yaml", ".yml") or is_data_file(path.name))


def _prompt_from_row(row: dict[str, Any]) -> Prompt:
    prompt = json.loads(row["prompt_json"])
    if isinstance(prompt, str):
        return Prompt(prompt, row["prompt_input_ids"])
    return Prompt(prompt[-1]["content"], row["prompt_input_ids"], prompt)


def _read_lines(path: Path, note: Callable[[str], None]) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", remedy="Give a UTF-8 text with one prompt per line."
        ) from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{path} contains no prompt.", remedy="Write one per line.")
    if len(prompts) < len(lines):
        note(f"{path}: {len(lines) - len(prompts)} empty lines skipped")
    return prompts


def _read_prompt_rows(
    path: Path, builder: PromptBuilder, source: PromptSource, note: Callable[[str], None]
) -> list[Prompt]:
    """Prompts of the rows of a file. An answer at the end of a conversation is left out.

    Raises DataError for a row without a prompt, UsageError where the chat template cannot render it.
    """
    left_out = 0
    prompts = []
    for name, row in _rows(path, source):
        try:
            messages = _messages(row)
            if len(messages) > 1 and messages[-1].role == "assistant":
                messages, left_out = messages[:-1], left_out + 1
            prompts.append(replace(_prompt(messages, builder, source.system, read_tools(row)), id=_id(row)))
        except RowRejected as error:
            raise DataError(f"{name}: {error.detail}.", remedy=error.remedy or REMEDY) from error
        except UsageError as error:
            raise type(error)(f"{name}: {error.message}", remedy=error.remedy) from error
    if left_out:
        note(f"{path}: {left_out:,} conversations end with an answer, which is left out of the prompt")
    if without_tools := sum(prompt.leaves_tools_out for prompt in prompts):
        note(f"{path}: rows with tools that are not in the text of the prompt: {without_tools:,}")
    return prompts


def _rows(path: Path, source: PromptSource) -> Iterator[tuple[str, Any]]:
    for number, row in islice(read_rows(path), source.count):
        yield f"{path}:{number}", parse_cells(rename_columns(row, source.columns))


def _prompt(
    messages: tuple[Message, ...],
    builder: PromptBuilder,
    system: str | None,
    tools: tuple[dict[str, Any], ...] | None,
) -> Prompt:
    own = messages[0].content if messages[0].role == "system" else None
    if not builder.plain:
        if system and own is None:
            messages = (Message("system", system), *messages)
        return builder.from_messages(messages, tools)
    turns = messages if own is None else messages[1:]
    if len(turns) != 1:
        raise UsageError(
            f"a conversation of {len(turns)} messages needs the chat template.", remedy="Give one text per prompt."
        )
    return replace(builder.from_text(turns[0].content, own or system), leaves_tools_out=bool(tools))


def _messages(row: Any) -> tuple[Message, ...]:
    column = _prompt_column(row)
    if column is None:
        raise RowRejected("malformed", f"no prompt: none of {', '.join(PROMPT_COLUMNS)}")
    check_text_only(row)
    messages = read_messages(row[column], column, "user")
    if column in INSTRUCTIONS and isinstance(row[column], str):  # a row of Alpaca, see read_alpaca
        if column == "instruction" and row.get("input"):
            messages = (Message("user", f"{messages[0].content}\n{read_text(row['input'], 'input')}"),)
        messages = (*parse_turns(row.get("history")), *messages)
    if not messages or not messages[-1].content.strip():
        raise RowRejected("malformed", f"{column} is empty")
    return with_system(messages, read_system(row))


def _prompt_column(row: Any) -> str | None:
    return next((name for name in PROMPT_COLUMNS if row.get(name)), None) if isinstance(row, dict) else None


def _id(row: dict[str, Any]) -> Any:
    return next((row[name] for name in ID_COLUMNS if isinstance(row.get(name), str | int)), None)
