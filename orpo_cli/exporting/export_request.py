"""Export request: what the user asked to export, and the format, folder and options of each export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from orpo_cli.errors import UsageError
from orpo_cli.exporting.export_source import ExportSource
from orpo_cli.recipe.schema import Dtype, ExportFormat, ExportSection, GgufType


@dataclass(frozen=True)
class ExportRequest:
    """Arguments of an export, as given on the command line; None means the setting of the run's recipe.

    ``target``: run or model folder. ``output``: folder of the export; with several formats, each gets a folder inside it. The
    default is the ``export`` folder of the run.
    """

    target: Path
    output: Path | None = None
    formats: list[str] | None = None
    dtype: str | None = None
    max_shard_size: str | None = None
    gguf_types: list[str] | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class FormatRequest:
    """One format to export, with its folder and options."""

    format: str
    output: Path
    options: dict[str, Any] = field(default_factory=dict)


def resolve_formats(source: ExportSource, request: ExportRequest) -> list[FormatRequest]:
    """The formats to export. Raises UsageError for unknown values and for options without effect."""
    dtype, gguf_types = request.dtype, request.gguf_types
    _check_choices("--format", request.formats, get_args(ExportFormat))
    _check_choices("--gguf-type", gguf_types, get_args(GgufType))
    _check_choices("--dtype", [dtype] if dtype else None, ("auto", *get_args(Dtype)))
    settings = _merge_settings(source, request)
    formats = list(dict.fromkeys(settings.formats))
    if gguf_types and "gguf" not in formats:
        raise UsageError("--gguf-type has no effect without GGUF.", remedy="Add --format gguf.")
    if formats == ["gguf"] and (dtype or request.max_shard_size):
        raise UsageError(
            f"{'--dtype' if dtype else '--max-shard-size'} has no effect for GGUF.", remedy="Use --gguf-type instead."
        )
    if request.output is None and source.rundir is None:
        raise UsageError(f"{source.folder} is outside of a run.", remedy="Give the folder for the export with -o.")
    root = request.output or source.rundir.export  # type: ignore[union-attr]
    one_format = request.output is not None and len(formats) == 1
    weights = source.dtype if settings.dtype == "auto" else settings.dtype
    checkpoint_options = {"dtype": weights, "max_shard_size": settings.max_shard_size}
    gguf_options = {"gguf_types": list(dict.fromkeys(settings.gguf_types))}
    return [
        FormatRequest(
            name, root if one_format else root / name, dict(gguf_options if name == "gguf" else checkpoint_options)
        )
        for name in formats
    ]


def _merge_settings(source: ExportSource, request: ExportRequest) -> ExportSection:
    """The export settings of the run, overridden by the command line."""
    from pydantic import ValidationError

    given = {name: getattr(request, name) for name in ("formats", "dtype", "max_shard_size", "gguf_types")}
    values = {**source.settings.model_dump(), **{name: value for name, value in given.items() if value}}
    try:
        return ExportSection.model_validate(values)
    except ValidationError as error:
        raise UsageError(
            f"--max-shard-size {request.max_shard_size}: not a size.",
            remedy="Give a number and a unit, such as 5GB or 512MiB.",
        ) from error


def _check_choices(option: str, values: list[str] | None, choices: tuple[str, ...]) -> None:
    for value in values or []:
        if value not in choices:
            raise UsageError(f"{option} {value}: not one of {', '.join(choices)}.")
