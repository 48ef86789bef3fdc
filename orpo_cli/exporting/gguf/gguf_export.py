"""GGUF export: one file per quantization type for llama.cpp and programs built on it, and a Modelfile for Ollama."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.exporting.checks import tokenizer_round_trip
from orpo_cli.exporting.export_record import Checklist
from orpo_cli.exporting.export_source import ExportSource
from orpo_cli.exporting.gguf import gguf_check, llama_cpp
from orpo_cli.exporting.gguf.converter import CONVERTER_TYPES, convert, supported_architectures
from orpo_cli.exporting.gguf.ollama_modelfile import write_modelfile
from orpo_cli.exporting.gguf.quantize import K_QUANTS, find_quantizer, quantize
from orpo_cli.exporting.reference_logits import ReferenceLogits

Note = Callable[[str], None]

# Bytes per weight, rounded up: k-quants keep some tensors in more bits than their name says.
BYTES_PER_WEIGHT = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 1.07, "q6_k": 0.9, "q5_k_m": 0.8, "q5_k_s": 0.8}
BYTES_PER_WEIGHT_BELOW_5_BITS = 0.7
LLAMA_CPP = "llama.cpp"  # remark where it is not installed


def check_convertible(source: ExportSource, types: list[str], note: Note) -> None:
    """Raise UsageError for an architecture that llama.cpp does not support, MachineError for a missing tool."""
    if importlib.util.find_spec("gguf") is None:
        raise MachineError("checking a GGUF file needs the package gguf.", remedy="pip install 'orpo-cli[gguf]'")
    if set(types) & set(K_QUANTS):
        find_quantizer()
    supported, names = supported_architectures(note), source.source.config().architectures or []
    if not set(names) & set(supported):
        raise UsageError(
            f"llama.cpp's converter does not support {', '.join(names) or 'a model without architecture'}. "
            f"It supports {', '.join(supported)}.",
            remedy="Export safetensors: --format safetensors.",
        )


def gguf_bytes(parameters: int, types: list[str], dtype: str) -> int:
    """Peak disk space of an export: all files, and the temporary 16-bit file that k-quants are made from."""
    temporary = BYTES_PER_WEIGHT[_intermediate_type(dtype)] if set(types) & set(K_QUANTS) else 0
    return int(
        parameters * (sum(BYTES_PER_WEIGHT.get(each, BYTES_PER_WEIGHT_BELOW_5_BITS) for each in types) + temporary)
    )


def write_gguf(
    source: ExportSource, folder: Path, reference: ReferenceLogits, types: list[str], checklist: Checklist, note: Note
) -> dict[str, dict[str, float]]:
    """Write a file of each type and a Modelfile into ``folder``, and check them. Returns what comparisons measured."""
    name = re.sub(r"[^\w.-]+", "-", source.name).strip("-") or "model"
    measured: dict[str, dict[str, float]] = {}
    attention = str(source.section().attn_implementation)
    unquantized = folder / f"{name}-{_intermediate_type(source.dtype)}.gguf"
    files = {each: folder / f"{name}-{each}.gguf" for each in types}
    to_convert = {each: file for each, file in files.items() if each in CONVERTER_TYPES}
    if set(types) & set(K_QUANTS):
        to_convert.setdefault(_intermediate_type(source.dtype), unquantized)
    for gguf_type, file in to_convert.items():
        note(f"converting to {file.name}")
        add_bos, ends = gguf_check.adds_bos_token(reference), gguf_check.end_of_turn_ids(reference)
        convert(
            source.folder, file, gguf_type=gguf_type, name=source.name, add_bos=add_bos, end_of_turn=ends, note=note
        )
    for gguf_type, file in files.items():
        if gguf_type in K_QUANTS:
            note(f"quantizing to {file.name}")
            quantize(unquantized, file, gguf_type)
    if unquantized not in files.values():
        unquantized.unlink(missing_ok=True)
    checklist.check(*tokenizer_round_trip(reference))
    for gguf_type, file in files.items():
        note(f"checking {file.name}")
        measured |= _check_file(
            file, reference, gguf_type, checklist, attention, prefix=f"{gguf_type}: " if len(files) > 1 else ""
        )
    write_modelfile(folder, next(iter(files.values())).name, reference, checklist)
    return measured


def _check_file(
    file: Path, reference: ReferenceLogits, gguf_type: str, checklist: Checklist, attention: str, prefix: str
) -> dict[str, Any]:
    file_checklist = Checklist()
    gguf_check.check_metadata(file, reference, file_checklist)
    difference = gguf_check.check_weights(file, reference, file_checklist, gguf_type=gguf_type, attention=attention)
    measured: dict[str, dict[str, float]] = {} if difference is None else {gguf_type: difference.as_dict()}
    if llama_cpp.is_installed():
        found = llama_cpp.check_in_llama_cpp(file, reference, file_checklist, gguf_type)
        measured |= {f"{gguf_type} in llama.cpp": found} if found else {}
    else:
        file_checklist.remark(
            LLAMA_CPP, "not run: install it with pip install 'orpo-cli[llama-cpp]', then repeat with --overwrite"
        )
    if difference is None and not llama_cpp.is_installed():
        file_checklist.remark("weights", "NOT compared with the model's: no installed library reads them")
    checklist.items += [{**item, "name": prefix + item["name"]} for item in file_checklist.items]
    return measured


def _intermediate_type(dtype: str) -> str:
    """The type that k-quants are made from: 16 bits with the value range of the model's dtype."""
    return "bf16" if dtype == "bfloat16" else "f16"
