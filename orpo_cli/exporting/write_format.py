"""Writing of one export format into a folder, with its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo_cli.digests import file_sha256
from orpo_cli.exporting.bitsandbytes_checkpoint import BNB_BITS, read_bnb, write_bnb
from orpo_cli.exporting.checks import check_folder, check_logits
from orpo_cli.exporting.export_record import COMPARISONS, Checklist, ExportRecord
from orpo_cli.exporting.export_request import FormatRequest
from orpo_cli.exporting.export_source import ExportSource
from orpo_cli.exporting.gguf import gguf_export
from orpo_cli.exporting.reference_logits import ReferenceLogits
from orpo_cli.exporting.safetensors_checkpoint import differing_tensors, write_safetensors
from orpo_cli.verify.compare_logits import compare_logits, compute_logits


def write_format(
    source: ExportSource,
    request: FormatRequest,
    folder: Path,
    reference: ReferenceLogits,
    record: ExportRecord,
    note: Callable[[str], None],
) -> ExportRecord:
    """Write one format into ``folder`` and check it. Returns ``record`` with the checklist and the files."""
    checklist, checks = Checklist(), {}
    note(f"writing {request.format} to {request.output}")
    if request.format == "gguf":
        checks = gguf_export.write_gguf(source, folder, reference, request.options["gguf_types"], checklist, note)
    else:
        writer = _write_bnb if request.format in BNB_BITS else _write_safetensors
        checks = writer(source, request, folder, reference, checklist)
    for line in checklist.lines():
        note(line)
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    # A GGUF file may have no failed check and no comparison: perhaps no library here can read it.
    compared = any(item["passed"] and item["name"].endswith(COMPARISONS) for item in checklist.items)
    verified = compared and not checklist.failures()
    return replace(record, verified=verified, checklist=checklist.items, checks=checks, files=files)


def _write_safetensors(
    source: ExportSource, request: FormatRequest, folder: Path, reference: ReferenceLogits, checklist: Checklist
) -> dict[str, dict[str, Any]]:
    dtype, max_shard_size = request.options["dtype"], request.options["max_shard_size"]
    eos_token_ids = reference.eos_token_ids
    write_safetensors(source.folder, folder, dtype=dtype, max_shard_size=max_shard_size, eos_token_ids=eos_token_ids)
    check_folder(folder, reference, checklist, dtype=dtype, bits=None)
    wrong = differing_tensors(source.folder, folder)
    checklist.check("weights", not wrong, f"those of the model in {dtype}" if not wrong else f"{wrong[0]} differs")
    if reference.dtype is None:
        checklist.remark("logits", "not computed: the model does not fit into memory")
        return {}
    model = source.load(folder, dtype=reference.dtype)
    return {"logits": check_logits("logits", model, reference, checklist, dtype).as_dict()}


def _write_bnb(
    source: ExportSource, request: FormatRequest, folder: Path, reference: ReferenceLogits, checklist: Checklist
) -> dict[str, dict[str, Any]]:
    bits, dtype = BNB_BITS[request.format], request.options["dtype"]
    max_shard_size = request.options["max_shard_size"]
    before = write_bnb(source, folder, reference, bits=bits, dtype=dtype, max_shard_size=max_shard_size)
    check_folder(folder, reference, checklist, dtype=dtype, bits=bits)
    model = read_bnb(source, folder)
    stored = compare_logits(before, compute_logits(model, reference.prompt_ids))
    same = stored.max_absolute <= 1e-3 or stored.relative <= 1e-3
    found = f"logits within {stored.max_absolute:.2g} of the quantized model's before it was saved"
    checklist.check("stored", same, found if same else f"{stored.text()}, before and after saving")
    tolerance = "8 bits" if bits == 8 else "fewer bits"
    difference = check_logits("logits", model, reference, checklist, tolerance)
    return {"stored": stored.as_dict(), "logits": difference.as_dict()}
