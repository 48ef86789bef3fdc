"""What is to be exported: formats, where each goes, and how it is to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from orpo_cli.errors import UsageError
from orpo_cli.export.export_source import ExportSource
from orpo_cli.recipe.schema import Dtype, ExportFormat, ExportSection, GgufType


@dataclass(frozen=True)
class FormatRequest:
    """One format that is asked for: where it goes, and how it is to be."""

    format: str
    output: Path
    options: dict[str, Any] = field(default_factory=dict)


def resolve_formats(
    source: ExportSource,
    output: Path | None,
    formats: list[str] | None,
    dtype: str | None,
    max_shard_size: str | None,
    gguf_types: list[str] | None,
) -> list[FormatRequest]:
    """What is asked for. Raises UsageError for values that are none, and for options that would do nothing."""
    _refuse_unknown("--format", formats, get_args(ExportFormat))
    _refuse_unknown("--gguf-type", gguf_types, get_args(GgufType))
    _refuse_unknown("--dtype", [dtype] if dtype else None, ("auto", *get_args(Dtype)))
    settings = _settings(source, formats, dtype, max_shard_size, gguf_types)
    chosen = list(dict.fromkeys(settings.formats))
    if gguf_types and "gguf" not in chosen:
        raise UsageError("--gguf-type does nothing without GGUF.", remedy="Add --format gguf.")
    if chosen == ["gguf"] and (dtype or max_shard_size):
        raise UsageError(
            f"{'--dtype' if dtype else '--max-shard-size'} does nothing for GGUF.", remedy="Say --gguf-type instead."
        )
    if output is None and source.rundir is None:
        raise UsageError(f"{source.folder} lies outside of a run.", remedy="Say where the export goes with -o.")
    root = output or source.rundir.export  # type: ignore[union-attr]
    alone = output is not None and len(chosen) == 1
    weights = source.dtype if settings.dtype == "auto" else settings.dtype
    shared = {"dtype": weights, "max_shard_size": settings.max_shard_size}
    gguf = {"gguf_types": list(dict.fromkeys(settings.gguf_types))}
    return [
        FormatRequest(name, root if alone else root / name, dict(gguf if name == "gguf" else shared)) for name in chosen
    ]


def _settings(source: ExportSource, formats: Any, dtype: Any, max_shard_size: Any, gguf_types: Any) -> ExportSection:
    """The run's settings with those of the command line in their place."""
    from pydantic import ValidationError

    given = {"formats": formats, "dtype": dtype, "max_shard_size": max_shard_size, "gguf_types": gguf_types}
    values = {**source.settings.model_dump(), **{name: value for name, value in given.items() if value}}
    try:
        return ExportSection.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"--max-shard-size {max_shard_size} is no size.", remedy="Write it like 5GB.") from error


def _refuse_unknown(option: str, values: list[str] | None, choices: tuple[str, ...]) -> None:
    for value in values or []:
        if value not in choices:
            raise UsageError(f"{option} {value}: not one of {', '.join(choices)}.")
