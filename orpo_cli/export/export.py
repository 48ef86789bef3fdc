"""``orpo export``: a trained model in the files that others load, each checked before it is called done.

What can be refused is refused before the work begins. Each format is written to a folder that appears when it is whole and has
passed its checks, with the list of them in export.json.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo_cli import __version__
from orpo_cli.atomic import atomic_directory, keep_as_unverified
from orpo_cli.errors import RunError, UsageError
from orpo_cli.export.bitsandbytes_checkpoint import BNB_BITS, read_bnb, write_bnb
from orpo_cli.export.checks import check_folder, check_logits
from orpo_cli.export.disk_space import check_disks, compared_in
from orpo_cli.export.export_record import COMPARISONS, FILE_NAME, Checklist, ExportRecord
from orpo_cli.export.export_request import FormatRequest, resolve_formats
from orpo_cli.export.export_source import ExportSource, resolve_source, sha256
from orpo_cli.export.gguf import gguf_export
from orpo_cli.export.gguf.converter import CONVERTER
from orpo_cli.export.reference_logits import ReferenceLogits, compute_reference
from orpo_cli.export.safetensors_checkpoint import differing_tensors, write_safetensors
from orpo_cli.verify.logits import compare_logits, compute_logits

Note = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """One format, in its folder. ``already`` says that it was there, made of the same model and verified."""

    format: str
    output: Path
    already_exported: bool
    record: ExportRecord

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values, for ``--json``."""
        return {
            "format": self.format,
            "status": "unchanged" if self.already_exported else "exported",
            "output": str(self.output),
            "verified": self.record.verified,
            "options": self.record.options,
            "checklist": self.record.checklist,
            "checks": self.record.checks,
            "files": self.record.files,
            "size": sum(file["size"] for file in self.record.files.values()),
        }


def export(
    target: Path,
    output: Path | None = None,
    *,
    formats: list[str] | None = None,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    gguf_types: list[str] | None = None,
    overwrite: bool = False,
    note: Note = lambda text: None,
) -> list[ExportResult]:
    """Export the model of a run, or in a folder, in each of ``formats``; what is None is as the run's recipe says.

    ``output`` is the folder of the one format, or the one that gets a folder for each of several; by default the run's
    ``export``, with a folder a format. Raises UsageError for what cannot be exported so, MachineError where disk, memory or a
    package is short, RunError where a check fails; then that format is kept beside its place.
    """
    source = resolve_source(target)
    orders = resolve_formats(source, output, formats, dtype, max_shard_size, gguf_types)
    records = {order.format: _new_record(source, order) for order in orders}
    there = {order.format: _existing_export(order, records[order.format], overwrite) for order in orders}
    missing = [order for order in orders if there[order.format] is None]
    for order in missing:
        _refuse_early(source, order, note)
    if missing:
        check_disks(source, missing)
        dtype_compared = compared_in(source, missing, note)
        source.ensure_merged(note)
        note(f"computing the logits of {source.folder} that exports are compared with")
        known = compute_reference(source, dtype_compared)
    for order in missing:
        with atomic_directory(order.output) as folder:
            made = _write_format(source, order, folder, known, records[order.format], note)
            if Checklist(made.checklist).comparison_failed():
                note("a comparison failed: the export is repeated, the model's logits computed anew")
                known = compute_reference(source, dtype_compared)
                made = replace(
                    _write_format(source, order, _clear_folder(folder), known, records[order.format], note),
                    first_checklist=made.checklist,
                )
            made.write(folder)
            if Checklist(made.checklist).failures():
                raise _keep_unverified(made, folder, order.output)
            there[order.format] = made
    return [
        ExportResult(order.format, order.output, order not in missing, record)
        for order in orders
        if (record := there[order.format]) is not None
    ]


def _new_record(source: ExportSource, order: FormatRequest) -> ExportRecord:
    from importlib.metadata import version

    packages = ("torch", "transformers", "bitsandbytes", "safetensors")
    versions = {"orpo-cli": __version__, **{name: version(name) for name in packages}}
    if order.format == "gguf":
        versions |= dict([CONVERTER.split("==")])
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return ExportRecord(False, order.format, source.name, source.origin, order.options, [], {}, {}, versions, created)


def _existing_export(order: FormatRequest, planned: ExportRecord, overwrite: bool) -> ExportRecord | None:
    """The record of an output that already is what is asked for. Raises UsageError where it is something else."""
    output = order.output
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = ExportRecord.read(output) if output.is_dir() else None
    if record is None:
        raise UsageError(
            f"{output} exists and is no export: it holds no {FILE_NAME}.", remedy="Choose another -o, or remove it."
        )
    if overwrite:
        return None
    if failures := Checklist(record.checklist).failures():
        raise UsageError(
            f"{output} holds an export with a failed check: {failures[0]}.",
            remedy="Say --overwrite, or choose another -o.",
        )
    if record.same_export(planned) and record.is_complete(output):
        return record
    if record.same_export(planned):
        raise UsageError(f"{output} is not whole any more.", remedy="Say --overwrite to make it anew.")
    options = ", ".join(f"{name} {value}" for name, value in record.options.items())
    raise UsageError(
        f"{output} holds another export ({record.format}, {options}, {record.created}).",
        remedy="Say --overwrite, or choose another -o.",
    )


def _refuse_early(source: ExportSource, order: FormatRequest, note: Note) -> None:
    if order.format == "gguf":
        gguf_export.check_convertible(source, order.options["gguf_types"], note)


def _write_format(
    source: ExportSource, order: FormatRequest, folder: Path, known: ReferenceLogits, planned: ExportRecord, note: Note
) -> ExportRecord:
    """Write one format into ``folder`` and check it. The checklist of the record says what has not passed."""
    checklist, checks = Checklist(), {}
    note(f"writing {order.format} to {order.output}")
    if order.format == "gguf":
        checks = gguf_export.write_gguf(source, folder, known, order.options["gguf_types"], checklist, note)
    else:
        writer = _export_bnb if order.format in BNB_BITS else _export_safetensors
        checks = writer(source, order, folder, known, checklist)
    for line in checklist.lines():
        note(line)
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    values = {
        **planned.__dict__,
        "verified": _is_verified(checklist),
        "checklist": checklist.items,
        "checks": checks,
        "files": files,
    }
    return ExportRecord(**values)


def _clear_folder(folder: Path) -> Path:
    """``folder`` without its files."""
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def _keep_unverified(record: ExportRecord, folder: Path, output: Path) -> RunError:
    """The error of an export with a failed check, which is kept beside ``output`` with the checklist in export.json."""
    failures = Checklist(record.checklist).failures()
    return RunError(
        f"the {record.format} export is not what it should be: {'; '.join(failures)}.",
        remedy=f"It is kept in {keep_as_unverified(folder, output)}, with the checklist in {FILE_NAME}; nothing uses it. Check the model "
        "itself with `orpo generate`; if it is right, please report this. Remove the folder when you are done.",
    )


def _is_verified(checklist: Checklist) -> bool:
    """Whether something compared the weights with the model's: a GGUF file may be of a kind that nothing here reads."""
    if checklist.failures():
        return False
    return any(item["passed"] and item["name"].endswith(COMPARISONS) for item in checklist.items)


def _export_safetensors(
    source: ExportSource, order: FormatRequest, folder: Path, known: ReferenceLogits, checklist: Checklist
) -> dict[str, dict[str, Any]]:
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.model_source import ModelSource

    dtype = order.options["dtype"]
    size = order.options["max_shard_size"]
    write_safetensors(source.folder, folder, dtype=dtype, max_shard_size=size, ends=known.eos_token_ids)
    check_folder(folder, known, checklist, dtype=dtype, bits=None)
    wrong = differing_tensors(source.folder, folder)
    checklist.check("weights", not wrong, f"those of the model in {dtype}" if not wrong else f"{wrong[0]} differs")
    if known.dtype is None:
        checklist.remark("logits", "not computed: the memory does not hold the model")
        return {}
    model = load_base(ModelSource(source.section(folder, dtype=known.dtype)), None, "cpu")
    return {"logits": check_logits("logits", model, known, checklist, dtype).as_dict()}


def _export_bnb(
    source: ExportSource, order: FormatRequest, folder: Path, known: ReferenceLogits, checklist: Checklist
) -> dict[str, dict[str, Any]]:
    bits, dtype = BNB_BITS[order.format], order.options["dtype"]
    size = order.options["max_shard_size"]
    before = write_bnb(source, folder, known, bits=bits, dtype=dtype, max_shard_size=size)
    check_folder(folder, known, checklist, dtype=dtype, bits=bits)
    model = read_bnb(source, folder)
    stored = compare_logits(before, compute_logits(model, known.prompt_ids))
    same = stored.max_absolute <= 1e-3 or stored.relative <= 1e-3
    found = f"logits within {stored.max_absolute:.2g} of the quantized model's before it was stored"
    checklist.check("stored", same, found if same else f"{stored.text()}, before it was stored and after")
    tolerance = "8 bits" if bits == 8 else "fewer bits"
    difference = check_logits("logits", model, known, checklist, tolerance)
    return {"stored": stored.as_dict(), "logits": difference.as_dict()}
