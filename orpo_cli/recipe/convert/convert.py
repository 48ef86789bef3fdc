"""Conversion: the text of another tool's configuration becomes the text of a valid recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert import autotrain, mlx_lm, ms_swift, trl
from orpo_cli.recipe.convert.axolotl import axolotl_config
from orpo_cli.recipe.convert.config_reader import SourceConfig, read_source
from orpo_cli.recipe.convert.draft import Draft, KeyOutcome, parse_path
from orpo_cli.recipe.convert.fit_to_schema import fit_to_schema, nest
from orpo_cli.recipe.convert.launch import accelerate, deepspeed, fsdp
from orpo_cli.recipe.convert.llama_factory import llama_factory_config
from orpo_cli.recipe.convert.printed_config import printed_config
from orpo_cli.recipe.convert.program import method_in_name
from orpo_cli.recipe.convert.recipe_writer import recipe_text

LAUNCH_KEYS = ("deepspeed", "fsdp", "fsdp_config", "fsdp_version")
SHELL_EXPRESSION = "It contains a shell expression. Set the resulting value."
MODEL, DATASET = "model.model_name_or_path", "dataset.train.path"


@dataclass(frozen=True)
class Conversion:
    """Recipe converted from another tool's configuration, and the outcome of each key."""

    tool: str
    text: str
    values: dict[str, Any]
    outcomes: tuple[KeyOutcome, ...]
    placeholders: dict[str, str]  # paths whose values the user must replace, and why
    remarks: tuple[str, ...] = ()  # about the configuration, not about one key


def convert(
    text: str,
    file: str,
    *,
    tool: str = "auto",
    model: str | None = None,
    dataset: str | None = None,
    folders: Sequence[FilePath] = (),
    accelerate_config: str | None = None,
) -> Conversion:
    """Convert ``text``, the content of ``file``. ``model`` and ``dataset`` replace the values of the source.

    ``accelerate_config`` is the path of a configuration of accelerate that launches the source. ``folders`` are searched for files that the source refers to.

    Raises UsageError if it is not a configuration for ORPO, RecipeError if it cannot be read.
    """
    source = read_source(text, file, tool, folders)
    if source.other_method:
        raise UsageError(f"{file} is not for ORPO: {source.other_method}.", remedy="Only ORPO is converted.")
    draft = Draft(source.tool, dict(source.values), source.lines)
    draft.remarks.extend(source.remarks)
    if source.is_shell:
        _leave_out_shell_expressions(draft)
    keys = () if source.tool in ("accelerate", "deepspeed") else LAUNCH_KEYS
    launch = {key: draft.source.pop(key) for key in keys if key in draft.source}
    _convert_by_tool(draft, source, file, folders)
    _convert_launch(draft, launch, source, folders)
    if accelerate_config is not None:
        accelerate.keep_accelerate_file(draft, "accelerate_config", accelerate_config, [FilePath.cwd()])
    draft.settle_unknown_keys()
    _apply_option(draft, MODEL, model, "set by --model")
    _apply_option(draft, DATASET, dataset, "set by --dataset")
    fit_to_schema(draft, _add_placeholders)
    return Conversion(
        source.tool,
        recipe_text(draft, file),
        nest(draft.values),
        tuple(sorted(draft.outcomes.values(), key=lambda outcome: outcome.line or 0)),
        {".".join(map(str, path)): added.note for path, added in draft.additions.items() if added.todo},
        tuple(draft.remarks),
    )


def _convert_by_tool(draft: Draft, source: SourceConfig, file: str, folders: Sequence[FilePath]) -> None:
    if source.tool == "axolotl":
        axolotl_config.convert(draft)
    elif source.tool == "llama-factory":
        llama_factory_config.convert(draft, folders)
    elif source.tool == "ms-swift":
        ms_swift.convert(draft)
    elif source.tool == "autotrain":
        autotrain.convert(draft)
    elif source.tool == "mlx-lm":
        mlx_lm.convert(draft, folders)
    elif source.tool == "accelerate":
        accelerate.convert(draft, folders)
    elif source.tool == "deepspeed":
        deepspeed.convert(draft)
    elif source.tool == "orpo-config":
        printed_config.convert(draft, source.class_name)
    else:
        _remark_other_method(draft, file)
        trl.convert(draft, ignores_model_arguments=source.script.endswith("examples/scripts/orpo.py"))


def _remark_other_method(draft: Draft, file: str) -> None:
    """Remark names of another method: the keys of trl's methods are mostly the same, so that a configuration may be for another."""
    names = {
        "The name of the file": file,
        **{key: draft.peek(key) for key in ("output_dir", "hub_model_id", "run_name")},
    }
    for place, name in names.items():
        if isinstance(name, str) and (method := method_in_name(name.rpartition("/")[2])):
            draft.remarks.append(f"{place} names another method, {method}. The recipe trains with ORPO.")


def _convert_launch(draft: Draft, launch: dict[str, Any], source: SourceConfig, folders: Sequence[FilePath]) -> None:
    """Convert settings of DeepSpeed, FSDP and the launcher, after the training arguments, which have precedence."""
    if "fsdp" in launch:
        fsdp.keep_fsdp_options(draft, "fsdp", launch["fsdp"])
    if isinstance(config := launch.get("fsdp_config"), dict) and config and launch.get("fsdp") in (None, "", [], False):
        draft.record("fsdp_config", config, "empty" if fsdp.is_default(config) else "ignored", None, "fsdp is off.")
    elif isinstance(config, dict) and config:
        draft.record("fsdp_config", config, "kept", None, deepspeed.SEE_KEYS)
        fsdp.convert_fsdp(draft, "fsdp_config.", config)
    elif "fsdp_config" in launch:
        note = "Write the content of the file to launch.fsdp_config."
        draft.record("fsdp_config", config, "left-out" if config else "empty", None, note)
    if "fsdp_version" in launch:
        draft.record("fsdp_version", launch["fsdp_version"], "empty", None)
    if "deepspeed" in launch:
        deepspeed.keep_deepspeed(draft, "deepspeed", launch["deepspeed"], folders)
    prefix = f"{source.launcher_name}."
    shell = {key: value for key, value in source.launcher.items() if _has_shell_expression(value)}
    for key, value in shell.items():
        draft.record(f"{prefix}{key}", value, "left-out", None, SHELL_EXPRESSION)
    rest = {key: value for key, value in source.launcher.items() if key not in shell}
    accelerate.convert_accelerate(draft, prefix, rest, folders)


def _leave_out_shell_expressions(draft: Draft) -> None:
    """Leave out values that contain a shell expression, before other code reads them."""
    for key, value in list(draft.source.items()):
        if _has_shell_expression(value):
            draft.settle(key, "left-out", None, SHELL_EXPRESSION)


def _has_shell_expression(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and re.search(r"\$[({A-Za-z_]", part) is not None for part in values)


def _apply_option(draft: Draft, path: str, value: str | None, note: str) -> None:
    """Replace the values of the source with a value from the command line."""
    if value is None:
        return
    target = parse_path(path)
    for other in [other for other in draft.values if other == target or (path == DATASET and other[:2] == target[:2])]:
        draft.withdraw(other, f"The value is {note}.")
    draft.add(path, value, note)


def _add_placeholders(draft: Draft) -> None:
    """Add placeholders for required values that the source does not have."""
    draft.add(MODEL, "TODO/base-model", "the source has no model; hub id or folder", todo=True)
    if not draft.has_value("dataset.train"):
        draft.add(DATASET, "TODO.jsonl", "the source has no pairs; hub id, file or folder", todo=True)
    if draft.value("training.eval_strategy") in ("steps", "epoch") and not draft.has_value("dataset.eval"):
        note = "the source has no held-out pairs; a fraction of train, or use path"
        draft.add("dataset.eval.test_size", 0.05, note, todo=True)
