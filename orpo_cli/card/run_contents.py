"""What of a run goes to the hub: adapter, merged model, gguf files, model; where each lies in the repository; whether it is whole."""

from __future__ import annotations

import fnmatch
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object, read_json_object_or_empty
from orpo_cli.merge.merge_record import MergeRecord, adapter_digests
from orpo_cli.rundir import RunDir

RunPart = Literal["adapter", "merged", "model", "gguf"]
ALL = "all"
CARD_PATH = "README.md"
CURVES_PATH = "report/curves.svg"

MAX_FILE_BYTES = 500 * 10**9  # bytes; the hub takes no larger one

# What trainers leave beside the weights: state to resume from, and pickles of arguments, which may hold a token.
_NEVER_PUSHED = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "trainer_state.json",
    "rng_state*.pth",
)


@dataclass(frozen=True)
class PushFile:
    """A file that goes up. ``part`` is what it belongs to (also ``card``, or a checkpoint's name), ``size`` in bytes."""

    path_in_repo: str
    source: Path
    size: int
    part: str


def select_parts(rundir: RunDir, requested: Sequence[str] = ()) -> tuple[RunPart, ...]:
    """The parts to push: by default what the run trained; ``all`` means every part that the run contains.

    Raises UsageError, with the command that creates it, for a part that is missing.
    """
    trained = trained_part(rundir)
    if ALL in requested:
        return _available_parts(rundir, trained)
    parts = tuple(part for part in get_args(RunPart) if part in (requested or (trained,)))
    for part in parts:
        _check_part(rundir, part, trained)
    return parts


def trained_part(rundir: RunDir) -> RunPart:
    """What the training left."""
    return "model" if rundir.result() == rundir.model else "adapter"


def part_folder(rundir: RunDir, part: RunPart) -> Path:
    """Where a part lies in the run."""
    return {
        "adapter": rundir.adapter, "merged": rundir.merged, "model": rundir.model, "gguf": rundir.export / "gguf",
    }[part]  # fmt: skip


def path_prefix(part: RunPart, parts: Sequence[RunPart]) -> str:
    """The folder of a part in the repository, with a slash at the end; empty for the top.

    A model lies at the top, where ``from_pretrained`` looks, and so do gguf files, where llama.cpp and Ollama look. An
    adapter lies at the top too, unless a merged model does.
    """
    return "adapter/" if part == "adapter" and "merged" in parts else ""


def files_to_push(
    rundir: RunDir,
    parts: Sequence[RunPart],
    card: str,
    curves: str | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[PushFile, ...]:
    """The card, the curves (their texts, written before the push) and the files of ``parts``, as the patterns choose.

    Raises UsageError for patterns that match nothing, for two parts with different files of one name, for files that are
    not whole or too large.
    """
    found = [PushFile(CARD_PATH, rundir.card, len(card.encode()), "card")]
    if curves is not None:
        found.append(PushFile(CURVES_PATH, rundir.curves, len(curves.encode()), "card"))
    for part in parts:
        found += part_files(part_folder(rundir, part), part, path_prefix(part, parts))
    kept = _apply_patterns(_deduplicate(found), include, exclude)
    for file in kept:
        _check_file(file)
    return tuple(kept)


def _available_parts(rundir: RunDir, trained: RunPart) -> tuple[RunPart, ...]:
    parts: list[RunPart] = [trained]
    if trained == "adapter" and rundir.merged.is_dir():
        _check_part(rundir, "merged", trained)
        parts.append("merged")
    if any(part_folder(rundir, "gguf").glob("*.gguf")):
        parts.append("gguf")
    return tuple(parts)


def _check_part(rundir: RunDir, part: RunPart, trained: RunPart) -> None:
    if part == trained:
        return
    if part == "merged":
        _check_merged(rundir)
    elif part == "gguf":
        if not any(part_folder(rundir, "gguf").glob("*.gguf")):
            raise UsageError(
                f"{part_folder(rundir, 'gguf')} holds no gguf file.",
                remedy=f"Make it: `orpo export {rundir.root} --format gguf`.",
            )
        if read_json_object_or_empty(part_folder(rundir, "gguf") / "export.json").get("verified") is False:
            raise UsageError(f"{part_folder(rundir, 'gguf')} is no verified export.", remedy="Export it again.")
    else:
        trained_words = "every weight" if trained == "model" else "a LoRA adapter"
        raise UsageError(f"{rundir.root} holds no {part}: the run trained {trained_words}.", remedy=f"--what {trained}")


def _check_merged(rundir: RunDir) -> None:
    if rundir.result() == rundir.model:
        raise UsageError(f"{rundir.root} trained every weight: there is nothing to merge.", remedy="--what model")
    record = MergeRecord.read(rundir.merged)
    if record is None or not record.verified:
        raise UsageError(f"{rundir.merged} is no verified merge.", remedy=f"Make it: `orpo merge {rundir.root}`.")
    if record.adapter_sha256 != adapter_digests(rundir.adapter):
        raise UsageError(
            f"{rundir.merged} was merged from another adapter than {rundir.adapter}.",
            remedy=f"Merge again: `orpo merge {rundir.root} --overwrite`.",
        )


def part_files(folder: Path, part: RunPart, prefix: str = "") -> Iterator[PushFile]:
    """The files of a part that go up: no hidden ones, no card, nothing that only a trainer needs."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(each.startswith(".") or each.startswith("checkpoint-") for each in inner.parts)
        if (
            path.is_file()
            and not hidden
            and str(inner) != CARD_PATH
            and not any(path.match(name) for name in _NEVER_PUSHED)
        ):
            yield PushFile(prefix + inner.as_posix(), path, path.stat().st_size, part)


def _deduplicate(files: Sequence[PushFile]) -> list[PushFile]:
    """One file a path: parts may share a tokenizer, byte for byte. Raises UsageError where they differ."""
    found: dict[str, PushFile] = {}
    for file in files:
        other = found.setdefault(file.path_in_repo, file)
        if other is not file and other.source.read_bytes() != file.source.read_bytes():
            raise UsageError(
                f"{other.source} and {file.source} would both be {file.path_in_repo} in the repository, and differ.",
                remedy=f"Push {other.part} and {file.part} to two repositories, or leave one out with --exclude.",
            )
    return list(found.values())


def _apply_patterns(files: Sequence[PushFile], include: Sequence[str], exclude: Sequence[str]) -> list[PushFile]:
    paths = [file.path_in_repo for file in files]
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not fnmatch.filter(paths, pattern):
                raise UsageError(f"{option} {pattern}: no file matches it.", remedy=f"There are: {', '.join(paths)}.")
    kept = [
        file
        for file in files
        if (not include or _matches(file.path_in_repo, include)) and not _matches(file.path_in_repo, exclude)
    ]
    if not kept:
        raise UsageError("--include and --exclude leave no file.", remedy=f"There are: {', '.join(paths)}.")
    return kept


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _check_file(file: PushFile) -> None:
    """Raise UsageError for weights that were cut off, shards that are missing, and files that the hub would not take."""
    if file.size > MAX_FILE_BYTES:
        raise UsageError(f"{file.source} has {file.size / 1e9:.0f} GB: more than a file on the hub may have.")
    if file.source.suffix == ".safetensors" and _safetensors_size(file.source) != file.size:
        raise UsageError(f"{file.source} is not whole: its header tells of another length.", remedy="Make it again.")
    if file.source.suffix == ".gguf" and _first_bytes(file.source, 4) != b"GGUF":
        raise UsageError(f"{file.source} is no GGUF file.", remedy="Make it again.")
    if file.source.name.endswith(".safetensors.index.json"):
        named = set(read_json_object(file.source).get("weight_map", {}).values())
        missing = sorted(name for name in named if not (file.source.parent / name).is_file())
        if missing:
            raise UsageError(f"{file.source.parent} is not whole: it lacks {', '.join(missing)}.")


def _safetensors_size(path: Path) -> int | None:
    """The length in bytes that a safetensors file says it has; None where it says nothing."""
    head = _first_bytes(path, 8)
    if len(head) < 8:
        return None
    size = int(struct.unpack("<Q", head)[0])
    if size > 10**8:
        return None
    try:
        header = json.loads(_first_bytes(path, 8 + size)[8:])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError):
        return None
    return 8 + size + int(max(ends, default=0))


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
