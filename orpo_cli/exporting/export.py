"""``orpo export``: write a trained model as safetensors, GGUF or a bitsandbytes checkpoint, and verify each export.

Invalid requests, missing tools and missing disk space are reported before the work starts. Each format is written to a
folder that appears after its checks have passed, with the checklist in export.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli import __version__
from orpo_cli.atomic import atomic_directory, keep_as_unverified, remove_leftovers
from orpo_cli.errors import RunError, UsageError
from orpo_cli.exporting.bitsandbytes_checkpoint import BNB_BITS
from orpo_cli.exporting.export_record import FILE_NAME, Checklist, ExportRecord
from orpo_cli.exporting.export_request import ExportRequest, FormatRequest, resolve_formats
from orpo_cli.exporting.export_source import ExportSource, resolve_source
from orpo_cli.exporting.gguf import gguf_export
from orpo_cli.exporting.gguf.converter import CONVERTER
from orpo_cli.exporting.reference_logits import compute_reference
from orpo_cli.exporting.write_format import write_format
from orpo_cli.run_attempts import now
from orpo_cli.verify.resources import check_disk_space, choose_compute_dtype, dtype_bytes, memory_shortage

Note = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """One exported format. ``already_exported``: it existed, from the same model and with passed checks."""

    format: str
    output: Path
    already_exported: bool
    record: ExportRecord

    def as_dict(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "format": self.format,
            "status": "unchanged" if self.already_exported else "exported",
            "output": str(self.output),
            **{each: getattr(self.record, each) for each in ("verified", "options", "checklist", "checks", "files")},
            "size": sum(file["size"] for file in self.record.files.values()),
        }


def export(request: ExportRequest, *, note: Note = lambda text: None) -> list[ExportResult]:
    """Export a model in each requested format.

    Raises UsageError if the request is invalid, MachineError if disk space, memory or a package is missing, RunError if a
    check fails; a failed export is kept next to its output.
    """
    source = resolve_source(request.target)
    formats = resolve_formats(source, request)
    for folder in {each.output.absolute().parent for each in formats}:
        remove_leftovers(folder)
    records = {each.format: _new_record(source, each) for each in formats}
    existing = {each.format: _existing_export(each, records[each.format], request.overwrite) for each in formats}
    missing = [each for each in formats if existing[each.format] is None]
    for each in missing:
        if each.format == "gguf":
            gguf_export.check_convertible(source, each.options["gguf_types"], note)
    exported = _export_formats(source, missing, records, note) if missing else {}
    return [
        ExportResult(each.format, each.output, each not in missing, record)
        for each in formats
        if (record := exported.get(each.format) or existing[each.format]) is not None
    ]


def _export_formats(
    source: ExportSource, formats: list[FormatRequest], records: dict[str, ExportRecord], note: Note
) -> dict[str, ExportRecord]:
    """Write and verify the formats, and return the record of each. A failed comparison is repeated once."""
    _check_disk_space(source, formats)
    dtype = _comparison_dtype(source, formats, note)
    source.ensure_merged(note)
    note(f"computing the logits of {source.folder} that exports are compared with")
    reference = compute_reference(source, dtype)
    exported = {}
    for each in formats:
        with atomic_directory(each.output) as folder:
            record = write_format(source, each, folder, reference, records[each.format], note)
            if Checklist(record.checklist).comparison_failed():
                note("a comparison failed: the export is repeated, with the model's logits computed again")
                reference = compute_reference(source, dtype)
                shutil.rmtree(folder)
                folder.mkdir()
                second = write_format(source, each, folder, reference, records[each.format], note)
                record = replace(second, first_checklist=record.checklist)
            record.write(folder)
            if Checklist(record.checklist).failures():
                raise _keep_unverified(record, folder, each.output)
            exported[each.format] = record
    return exported


def _check_disk_space(source: ExportSource, formats: list[FormatRequest]) -> None:
    """Raise MachineError if a disk has no space for the merged model or the exports."""
    parameters = source.facts.parameters
    if source.needs_merge:
        check_disk_space(source.folder, parameters * dtype_bytes(source.dtype))
    for each in formats:
        same_folder = [other for other in formats if other.output.parent == each.output.parent]
        check_disk_space(each.output, sum(_weight_bytes(other, parameters, source.dtype) for other in same_folder))


def _weight_bytes(request: FormatRequest, parameters: int, dtype: str) -> int:
    """Upper limit of the weights' size: what bitsandbytes does not quantize has the requested dtype."""
    if request.format == "gguf":
        return gguf_export.gguf_bytes(parameters, request.options["gguf_types"], dtype)
    return parameters * dtype_bytes(request.options["dtype"])


def _comparison_dtype(source: ExportSource, formats: list[FormatRequest], note: Note) -> str | None:
    """The dtype to compute logits in: float32 if it fits into memory, else that of the weights, else None.

    Raises MachineError if a format needs the complete model in memory.
    """
    dtype = choose_compute_dtype(source.facts.parameters, source.dtype)
    if dtype is None:
        if needs_memory := next((each.format for each in formats if each.format in BNB_BITS), None):
            reason = f"{needs_memory} needs the complete model in memory"
            raise memory_shortage(source.facts.parameters, source.dtype, reason)
        note("the model does not fit into memory: weights are compared one by one, but logits are not.")
    elif dtype != "float32":
        note(f"the model does not fit into memory in float32: logits are compared in {dtype}.")
    return dtype


def _new_record(source: ExportSource, request: FormatRequest) -> ExportRecord:
    """The record of an export before its checks."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "bitsandbytes", "safetensors")
    versions = {"orpo-cli": __version__, **{name: version(name) for name in packages}}
    if request.format == "gguf":
        versions |= dict([CONVERTER.split("==")])
    created = now()
    return ExportRecord(
        False, request.format, source.name, source.origin, request.options, [], {}, {}, versions, created
    )


def _existing_export(request: FormatRequest, new: ExportRecord, overwrite: bool) -> ExportRecord | None:
    """The record of an output that already is the requested export. Raises UsageError if it is something else."""
    output = request.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = ExportRecord.read(output) if output.is_dir() else None
    if record is None:
        raise UsageError(
            f"{output} exists and is no export: it has no {FILE_NAME}.", remedy="Choose another -o, or remove it."
        )
    if overwrite:
        return None
    remedy = "Add --overwrite, or choose another -o."
    if failures := Checklist(record.checklist).failures():
        raise UsageError(f"{output} contains an export with a failed check: {failures[0]}.", remedy=remedy)
    if not record.same_export(new):
        options = ", ".join(f"{name} {value}" for name, value in record.options.items())
        raise UsageError(
            f"{output} contains another export ({record.format}, {options}, {record.created}).", remedy=remedy
        )
    if not record.is_complete(output):
        raise UsageError(
            f"{output} is incomplete: files are missing or changed.", remedy="Export again with --overwrite."
        )
    return record


def _keep_unverified(record: ExportRecord, folder: Path, output: Path) -> RunError:
    """Keep an export with a failed check next to ``output``, with its export.json, and return the error to raise."""
    failures = Checklist(record.checklist).failures()
    return RunError(
        f"the {record.format} export failed its checks: {'; '.join(failures)}.",
        remedy=f"It is kept in {keep_as_unverified(folder, output)}, with the checklist in {FILE_NAME}; no command uses it. Check the "
        "model itself with `orpo generate`; if it is right, please report this. Remove the folder when you are done.",
    )
