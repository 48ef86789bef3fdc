"""Checkpoint manifest: size and digest of every file of a checkpoint, and the check of a checkpoint against it.

``manifest.json`` is written last. Without it a checkpoint is damaged, except where version 0.2.0 wrote it: there it is checked by
loading its parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.digests import file_xxh3

MANIFEST, STATE = "manifest.json", "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointDamaged(Exception):
    """The reason why a checkpoint is incomplete, or differs from what was written."""


@dataclass(frozen=True)
class CheckpointManifest:
    """Content of manifest.json.

    ``finite``: no weight and no value of the optimizer is infinite or NaN. ``resumable``: it has the state of the optimizer,
    which ``save_only_model`` leaves out. ``files``: size in bytes and digest by name.
    """

    step: int
    world_size: int
    finite: bool
    resumable: bool
    files: Mapping[str, tuple[int, str]]

    def to_json(self) -> str:
        """The text of manifest.json, with a digest of its own content."""
        document = {**self.__dict__, "files": {name: list(entry) for name, entry in sorted(self.files.items())}}
        return json.dumps({**document, "digest": _digest_of(document)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CheckpointManifest:
        """Read what ``to_json`` writes. Raises CheckpointDamaged where a value has changed."""
        try:
            document = json.loads(text)
            if document.pop("digest") != _digest_of(document):
                raise CheckpointDamaged(f"the content of {MANIFEST} has changed")
            files = {name: (int(size), str(digest)) for name, (size, digest) in document.pop("files").items()}
            return cls(**document, files=files)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointDamaged(f"{MANIFEST} cannot be read") from error


def checkpoint_step(folder: Path) -> int | None:
    """The step in the name of a checkpoint; None for another folder, as checkpoint-8.damaged."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def find_checkpoints(parent: Path) -> list[Path]:
    """The folders ``checkpoint-N`` in ``parent``, complete or not, in the order of their steps."""
    found = [path for path in parent.glob("checkpoint-*") if checkpoint_step(path) is not None and path.is_dir()]
    return sorted(found, key=lambda path: checkpoint_step(path) or 0)


def checkpoint_files(folder: Path) -> list[Path]:
    """All files of a checkpoint except the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def read_manifest(folder: Path) -> CheckpointManifest | None:
    """The manifest of a checkpoint; None where it has none. Raises CheckpointDamaged."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(f"{MANIFEST} cannot be read") from error
    return CheckpointManifest.from_json(text)


def unusable_reason(checkpoint: Path, *, contents: bool = True, needs_manifest: bool = True) -> str | None:
    """Why a run cannot continue from a checkpoint; None where it can. ``contents`` is as for ``check_files``.

    ``needs_manifest``: whether a checkpoint without a manifest is damaged; False for checkpoints of version 0.2.0.
    """
    try:
        if needs_manifest and read_manifest(checkpoint) is None:
            raise CheckpointDamaged(f"{MANIFEST} is missing")
        manifest = check_files(checkpoint, contents=contents)
    except CheckpointDamaged as error:
        return f"damaged: {error}"
    if manifest is not None and not manifest.finite:
        return "its weights or the state of its optimizer have infinite or NaN values"
    if manifest is not None and not manifest.resumable:
        return "it has weights only, without the state of the optimizer (training.save_only_model)"
    return None


def check_files(checkpoint: Path, *, contents: bool = True) -> CheckpointManifest | None:
    """Compare a checkpoint with its manifest, and return that; None where it has none. Raises CheckpointDamaged.

    ``contents``: compare digests as well, which reads every file. Without it, names and sizes are compared.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None:
        _check_without_manifest(checkpoint, contents=contents)
        return None
    if manifest.step != checkpoint_step(checkpoint):
        raise CheckpointDamaged(f"its {MANIFEST} is that of step {manifest.step}")
    for name, (size, digest) in manifest.files.items():
        _check_file(checkpoint / name, name, size, digest if contents else None)
    return manifest


def _digest_of(document: Mapping[str, Any]) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(json.dumps(document, sort_keys=True).encode())


def _check_file(path: Path, name: str, size: int, digest: str | None) -> None:
    try:
        if not path.exists():
            raise CheckpointDamaged(f"{name} is missing")
        if not path.is_file():
            raise CheckpointDamaged(f"{name} is not a file")
        if (found := path.stat().st_size) != size:
            raise CheckpointDamaged(f"{name} has {found:,} bytes in place of {size:,}")
        if digest is not None and file_xxh3(path) != digest:
            raise CheckpointDamaged(f"the content of {name} has changed")
    except OSError as error:
        raise CheckpointDamaged(f"{name} cannot be read ({error.strerror or error})") from error


def _check_without_manifest(folder: Path, *, contents: bool) -> None:
    """Check a checkpoint of version 0.2.0. A changed value in a weights file is not noticed: the file has no checksum."""
    state = _read_json(folder / STATE)
    if state.get("global_step") != checkpoint_step(folder):
        raise CheckpointDamaged(f"its {STATE} is that of step {state.get('global_step')}")
    check_weights(folder)
    random_states = list(folder.glob("rng_state*.pth"))
    if not random_states:
        raise CheckpointDamaged("rng_state.pth is missing")
    pickles = [folder / "optimizer.pt", folder / "scheduler.pt", *random_states, *folder.glob("scaler.pt")]
    _check_present(pickles)
    if not contents:
        return
    for path in folder.glob("*.json"):
        _read_json(path)
    for path in (*pickles, *(each for each in weight_files(folder) if each.suffix != ".safetensors")):
        _check_torch_file(path)


def check_weights(folder: Path) -> None:
    """Check that the weights in ``folder`` are there, and not shorter than their headers say. Raises CheckpointDamaged."""
    weights = weight_files(folder)
    if not weights:
        raise CheckpointDamaged("it has no weights")
    _check_present(weights)
    for path in weights:
        if path.suffix == ".safetensors":
            _check_safetensors(path)


def _check_present(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise CheckpointDamaged(f"{path.name} {'is not a file' if path.exists() else 'is missing'}")


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a model or an adapter. Raises CheckpointDamaged where an index has no map of them."""
    for name in ("adapter_model", "model"):
        if (index := folder / f"{name}.safetensors.index.json").is_file():
            shards = _read_json(index).get("weight_map", {})
            if not isinstance(shards, dict):
                raise CheckpointDamaged(f"{index.name} has no map of the weights")
            return [folder / shard for shard in sorted({str(shard) for shard in shards.values()})]
        if (path := folder / f"{name}.safetensors").exists():
            return [path]
    return sorted((*folder.glob("adapter_model.bin"), *folder.glob("pytorch_model*.bin")))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointDamaged(f"{path.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointDamaged(f"{path.name} cannot be read") from error
    if not isinstance(document, dict):
        raise CheckpointDamaged(f"{path.name} is not a JSON object")
    return document


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # checks the header, and the length that it gives
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(f"{path.name} cannot be read ({error})") from error


def _check_torch_file(path: Path) -> None:
    """Check the checksums of a file of torch.save, and that it has only tensors and plain values."""
    import zipfile

    import torch
    from transformers.trainer_pt_utils import safe_globals

    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise CheckpointDamaged(f"{path.name} cannot be read (checksum of {wrong})")
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointDamaged:
        raise
    except Exception as error:  # torch and pickle raise errors of many types for damaged files
        raise CheckpointDamaged(f"{path.name} cannot be read") from error
