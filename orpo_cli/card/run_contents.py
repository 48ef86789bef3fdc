"""Contents of a run that can be pushed: adapter, merged model, model and GGUF files, with their paths in the repository.

Incomplete and unverified files are refused.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from orpo_cli.card.base_license import hub_id
from orpo_cli.errors import UsageError
from orpo_cli.exporting.export_source import file_digests
from orpo_cli.json_files import read_json_object, read_json_object_or_empty
from orpo_cli.merging.merge_record import MergeRecord, adapter_digests
from orpo_cli.rundir import RunDir

RunPart = Literal["adapter", "merged", "model", "gguf"]
ALL = "all"
CARD_PATH = "README.md"
CURVES_PATH = "report/curves.svg"
ADAPTER_CONFIG = "adapter_config.json"

MAX_FILE_BYTES = 500 * 10**9  # limit of the hub

# State of the trainer, and pickled arguments, which may contain a token.
_NEVER_PUSHED = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "trainer_state.json",
    "trained_totals.json",
    "rng_state*.pth",
)


@dataclass(frozen=True)
class PushFile:
    """A file to push. ``size`` is in bytes; ``part`` is a RunPart, ``card``, or the name of a checkpoint.

    ``content``: the bytes to push, where they are not those of ``source``.
    """

    path_in_repo: str
    source: Path
    size: int
    part: str
    content: bytes | None = None


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
    """The part that the training produced."""
    return "model" if rundir.result() == rundir.model else "adapter"


def part_folder(rundir: RunDir, part: RunPart) -> Path:
    """The folder of a part in the run."""
    return {
        "adapter": rundir.adapter, "merged": rundir.merged, "model": rundir.model, "gguf": rundir.export / "gguf",
    }[part]  # fmt: skip


def path_prefix(part: RunPart, parts: Sequence[RunPart]) -> str:
    """The folder of a part in the repository, with a slash at the end; empty for the root.

    Models and GGUF files are in the root, where ``from_pretrained``, llama.cpp and Ollama read them. An adapter is in the
    root too, unless a merged model is.
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
    """The card, the curves and the files of ``parts`` that match the patterns. The card and the curves may not exist yet.

    Raises UsageError for a pattern without a match, for two parts with different files of one name, and for a file that is
    incomplete or too large.
    """
    found = [PushFile(CARD_PATH, rundir.card, len(card.encode()), "card")]
    if curves is not None:
        found.append(PushFile(CURVES_PATH, rundir.curves, len(curves.encode()), "card"))
    for part in parts:
        found += part_files(part_folder(rundir, part), part, path_prefix(part, parts))
    base = hub_id(rundir.read_plan().model.model_name_or_path)
    found = [_without_local_base(file, base) for file in found]
    selected = _apply_patterns(_deduplicate(found), include, exclude)
    for file in selected:
        _check_file(file)
    return tuple(selected)


def _available_parts(rundir: RunDir, trained: RunPart) -> tuple[RunPart, ...]:
    parts: list[RunPart] = [trained]
    if trained == "adapter" and rundir.merged.is_dir():
        _check_part(rundir, "merged", trained)
        parts.append("merged")
    if any(part_folder(rundir, "gguf").glob("*.gguf")):
        _check_part(rundir, "gguf", trained)
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
                f"{part_folder(rundir, 'gguf')} contains no GGUF file.",
                remedy=f"Create it: `orpo export {rundir.root} --format gguf`.",
            )
        _check_gguf(rundir, trained)
    else:
        method = "all weights" if trained == "model" else "a LoRA adapter"
        raise UsageError(f"{rundir.root} contains no {part}: the run trained {method}.", remedy=f"--what {trained}")


def _check_gguf(rundir: RunDir, trained: RunPart) -> None:
    folder = part_folder(rundir, "gguf")
    record = read_json_object_or_empty(folder / "export.json")
    if record.get("verified") is False:
        raise UsageError(f"{folder} is not a verified export.", remedy="Export it again.")
    exported = record.get("origin")
    current = file_digests(rundir.model) if trained == "model" else adapter_digests(rundir.adapter)
    if isinstance(exported, dict) and any(exported.get(name) != digest for name, digest in current.items()):
        raise UsageError(
            f"{folder} was exported from another {trained} than that of the run now.",
            remedy=f"Export it again: `orpo export {rundir.root} --format gguf --overwrite`.",
        )


def _check_merged(rundir: RunDir) -> None:
    if rundir.result() == rundir.model:
        raise UsageError(f"{rundir.root} trained all weights, so there is no adapter to merge.", remedy="--what model")
    record = MergeRecord.read(rundir.merged)
    if record is None or not record.is_usable:
        raise UsageError(f"{rundir.merged} is not a verified merge.", remedy=f"Create it: `orpo merge {rundir.root}`.")
    if record.adapter_sha256 != adapter_digests(rundir.adapter):
        raise UsageError(
            f"{rundir.merged} was merged from another adapter than {rundir.adapter}.",
            remedy=f"Merge again: `orpo merge {rundir.root} --overwrite`.",
        )


def part_files(folder: Path, part: RunPart, prefix: str = "") -> Iterator[PushFile]:
    """The files of a part to push: without hidden files, checkpoints, the card and the state of the trainer."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(each.startswith((".", "checkpoint-")) for each in name.parts)
        is_excluded = name.as_posix() == CARD_PATH or any(path.match(pattern) for pattern in _NEVER_PUSHED)
        if path.is_file() and not is_hidden and not is_excluded:
            yield PushFile(prefix + name.as_posix(), path, path.stat().st_size, part)


def without_local_base(config: str, base: str | None) -> str:
    """adapter_config.json for readers elsewhere: its base is ``base``, the id on the hub, or null for a base that is not there."""
    return json.dumps({**json.loads(config), "base_model_name_or_path": base}, indent=2) + "\n"


def _without_local_base(file: PushFile, base: str | None) -> PushFile:
    if file.part != "adapter" or file.source.name != ADAPTER_CONFIG:
        return file
    written = file.source.read_text(encoding="utf-8")
    if json.loads(written).get("base_model_name_or_path") == base:
        return file
    content = without_local_base(written, base).encode()
    return replace(file, content=content, size=len(content))


def _deduplicate(files: Sequence[PushFile]) -> list[PushFile]:
    """One file per path: parts may share identical tokenizer files. Raises UsageError if two files of a path differ."""
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
                raise UsageError(
                    f"{option} {pattern}: no file matches it.", remedy=f"The files are: {', '.join(paths)}."
                )
    selected = [file for file in files if not include or _matches(file.path_in_repo, include)]
    selected = [file for file in selected if not _matches(file.path_in_repo, exclude)]
    if not selected:
        raise UsageError("--include and --exclude leave no file.", remedy=f"The files are: {', '.join(paths)}.")
    return selected


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _check_file(file: PushFile) -> None:
    """Raise UsageError for truncated weights, missing shards, and files that the hub would not accept."""
    if file.size > MAX_FILE_BYTES:
        raise UsageError(
            f"{file.source} has {file.size / 1e9:.0f} GB: the hub accepts at most {MAX_FILE_BYTES / 1e9:.0f} GB per file."
        )
    if file.source.suffix == ".safetensors" and not _is_complete_safetensors(file.source):
        raise UsageError(f"{file.source} is incomplete: its header has another length.", remedy="Create it again.")
    if file.source.suffix == ".gguf":
        with file.source.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise UsageError(f"{file.source} is not a GGUF file.", remedy="Create it again.")
    if file.source.name.endswith(".safetensors.index.json"):
        shards = set(read_json_object(file.source).get("weight_map", {}).values())
        missing = sorted(name for name in shards if not (file.source.parent / name).is_file())
        if missing:
            raise UsageError(f"{file.source.parent} is incomplete: these files are missing: {', '.join(missing)}.")


def _is_complete_safetensors(path: Path) -> bool:
    """Whether the file has a valid header and exactly the tensors that the header lists."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False
