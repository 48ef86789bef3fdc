"""merge.json: from what a merged model was made, and what its check found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object_or_empty

FILE_NAME = "merge.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class MergeRecord:
    """The verdict on a merged folder.

    ``max_logit_difference`` is between the stored model and adapter-on-base; None where only tensors were compared.
    """

    verified: bool
    adapter: str  # name of its folder
    adapter_sha256: dict[str, str]  # file name: digest
    base: str
    base_revision: str
    quantization: dict[str, Any] | None  # how the base was quantized in training; it was dequantized for the merge
    dtype: str
    computed_in: str  # the type that logits were compared in; weights are merged in float32
    max_logit_difference: float | None
    checks: dict[str, dict[str, Any]]  # name of the check: what it measured
    prompts: dict[str, int]  # how many of each kind were compared; not the texts, which may be private
    eos_token_ids: list[int]
    files: dict[str, int]  # file name: bytes
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    into: str = "trained"  # the base as training had it, or the original of a quantized one
    adapters: list[dict[str, Any]] = field(default_factory=list)  # all of them, where they are several or weighted
    way: str = "tensor by tensor"  # or: in memory, why
    verification: str = "logits"  # or: tensors, where the model did not fit into the memory
    tensors: dict[str, float] = field(
        default_factory=dict
    )  # how many were written, changed; how far merged layers are off
    untied: list[str] = field(
        default_factory=list
    )  # weights that are stored on their own, because the adapter made them so
    difference_to_trained: dict[str, Any] | None = None  # of logits, where that is another model than the check's
    generation: dict[str, Any] | None = None  # answers that stopped by themselves, of the merged model and unmerged
    held_out: dict[str, Any] | None = None  # loss and accuracy on held-out pairs, merged and unmerged
    seconds: dict[str, float] = field(default_factory=dict)  # of merge and verification
    problem: str | None = None  # what the verification found wrong
    first_verification: dict[str, Any] | None = (
        None  # problem and checks of one that failed; the verdict is the second's
    )

    def write(self, folder: Path) -> None:
        """Write merge.json into ``folder``."""
        atomic_write_text(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> MergeRecord | None:
        """The record of a merged folder; None where there is none that can be read."""
        try:
            return cls(**read_json_object_or_empty(folder / FILE_NAME))
        except TypeError:
            return None

    def same_origin(self, other: MergeRecord) -> bool:
        """Whether both were made from the same adapter, base and dtype."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("adapter_sha256", "base", "base_revision", "quantization", "dtype", "into", "adapters")
        )

    def is_complete(self, folder: Path) -> bool:
        """Whether every recorded file is still in ``folder`` with its size."""
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in self.files.items()
        )


def adapter_digests(adapter: Path) -> dict[str, str]:
    """sha256 of each file of a PEFT adapter that decides what it computes."""
    found = [adapter / name for name in _ADAPTER_FILES if (adapter / name).is_file()]
    if len(found) < 2:
        raise UsageError(
            f"{adapter} holds no whole PEFT adapter: adapter_config.json and adapter_model.safetensors are needed.",
            remedy="Give a run directory, or the folder of an adapter.",
        )
    return {path.name: _sha256(path) for path in found}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
