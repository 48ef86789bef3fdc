"""From the text of another tool's configuration to the text of a recipe that validates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.recipe.convert import ms_swift, trl
from orpo_cli.recipe.convert.axolotl import axolotl_config
from orpo_cli.recipe.convert.config_reader import SourceConfig, read_source
from orpo_cli.recipe.convert.draft import Draft, KeyOutcome, parse_path
from orpo_cli.recipe.convert.fit_to_schema import fit_to_schema, nest
from orpo_cli.recipe.convert.llama_factory import llama_factory_config
from orpo_cli.recipe.convert.printed_config import printed_config
from orpo_cli.recipe.convert.recipe_writer import recipe_text

MODEL, DATASET = "model.model_name_or_path", "dataset.train.path"


@dataclass(frozen=True)
class Conversion:
    """A recipe made from another tool's configuration, and what became of each of its keys."""

    tool: str
    text: str
    values: dict[str, Any]
    outcomes: tuple[KeyOutcome, ...]
    placeholders: tuple[str, ...]  # places that the user must fill
    remarks: tuple[str, ...] = ()  # on the whole


def convert(
    text: str,
    file: str,
    *,
    tool: str = "auto",
    model: str | None = None,
    dataset: str | None = None,
    folders: Sequence[FilePath] = (),
) -> Conversion:
    """Convert ``text``, which came from ``file``. ``model`` and ``dataset`` go before what the source says.

    ``folders`` is where files that the source speaks of may lie.

    Raises UsageError where it is not a configuration for ORPO, RecipeError where it cannot be read.
    """
    source = read_source(text, file, tool)
    draft = Draft(source.tool, dict(source.values), source.lines)
    if source.is_shell:
        _leave_out_shell_expressions(draft)
    _convert_by_tool(draft, source, folders)
    draft.finish()
    _apply_option(draft, MODEL, model, "given with --model")
    _apply_option(draft, DATASET, dataset, "given with --dataset")
    fit_to_schema(draft, _add_placeholders)
    todo = [path for path, added in draft.additions.items() if added.todo]
    return Conversion(
        source.tool,
        recipe_text(draft, file),
        nest(draft.values),
        tuple(sorted(draft.outcomes.values(), key=lambda outcome: outcome.line or 0)),
        tuple(".".join(map(str, path)) for path in todo),
        tuple(draft.remarks),
    )


def _convert_by_tool(draft: Draft, source: SourceConfig, folders: Sequence[FilePath]) -> None:
    if source.tool == "axolotl":
        axolotl_config.convert(draft)
    elif source.tool == "llama-factory":
        llama_factory_config.convert(draft, folders)
    elif source.tool == "ms-swift":
        ms_swift.convert(draft)
    elif source.tool == "orpo-config":
        printed_config.convert(draft, source.class_name)
    else:
        trl.convert(draft, ignores_model_arguments=source.script.endswith("examples/scripts/orpo.py"))


def _leave_out_shell_expressions(draft: Draft) -> None:
    """Values that only a shell could work out are left out before anything reads them."""
    for key, value in list(draft.source.items()):
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, str) and re.search(r"\$[({A-Za-z_]", each) for each in values):
            draft.settle(key, "left-out", None, "The shell works it out: write what comes of it.")


def _apply_option(draft: Draft, path: str, value: str | None, note: str) -> None:
    """What the command line says replaces what the source says at and below the same section."""
    if value is None:
        return
    place = parse_path(path)
    for other in [other for other in draft.values if other == place or (path == DATASET and other[:2] == place[:2])]:
        draft.withdraw(other, f"{note[0].upper()}{note[1:]}: this is replaced.")
    draft.add(path, value, note)


def _add_placeholders(draft: Draft) -> None:
    """Put something where the recipe needs a value that the source does not have."""
    draft.add(MODEL, "TODO/base-model", "the source names no model; hub id or folder", todo=True)
    if not any(path[:2] == ("dataset", "train") for path in draft.values):
        draft.add(DATASET, "TODO.jsonl", "the source names no pairs; hub id, file or folder", todo=True)
    evaluates = draft.values.get(parse_path("training.eval_strategy")) in ("steps", "epoch")
    if evaluates and not any(path[:2] == ("dataset", "eval") for path in draft.values):
        draft.add(
            "dataset.eval.test_size", 0.05, "the source names no held-out pairs; a share of train, or a path", todo=True
        )
