"""merge.json: the record of a merged folder, with the origin of the model and the result of its verification."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo_cli.atomic import atomic_write_text
from orpo_cli.digests import file_sha256
from orpo_cli.errors import UsageError
from orpo_cli.json_files import read_json_object_or_empty

FILE_NAME = "merge.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors")


@dataclass(frozen=True, kw_only=True)
class MergeRecord:
    """Origin and verification of a merged folder; the fields are the keys of merge.json."""

    verified: bool = False  # logits were compared and are equal, up to rounding
    adapter: str  # name of its folder
    adapter_sha256: dict[str, str]  # file name: digest
    base: str
    base_revision: str
    quantization: dict[str, Any] | None  # of the base in training; the merge dequantized it
    dtype: str
    computed_in: str = "float32"  # dtype in which logits were compared; weights are merged in float32
    max_logit_difference: float | None = None  # from the unmerged model; None if logits were not compared
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)  # name of the check: what it measured
    prompts: dict[str, int] = field(default_factory=dict)  # number compared of each kind; the texts may be private
    eos_token_ids: list[int] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)  # file name: bytes
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    into: str = "trained"  # a quantized base: as training used it, or the original
    adapters: list[dict[str, Any]] = field(default_factory=list)  # all adapters, if several or weighted
    max_shard_size: str | None = None  # of a weights file, as it was given
    way: str = "tensor by tensor"  # or: in memory, and why
    verification: str = (
        "logits"  # or: "tensors only", if the model did not fit into memory; "none" if it was merged in memory
    )
    not_compared: str | None = None  # why logits were not compared
    tensors: dict[str, float] = field(default_factory=dict)  # number written and changed; largest output difference
    untied: list[str] = field(default_factory=list)  # weights saved separately because the adapter untied them
    difference_to_trained: dict[str, Any] | None = None  # of logits, for ``into: original``
    generation: dict[str, Any] | None = None  # answers that ended, of the merged model and the unmerged one
    held_out: dict[str, Any] | None = None  # NLL, accuracy and margin on held-out pairs, merged and unmerged
    seconds: dict[str, float] = field(default_factory=dict)  # of merge and verification
    problem: str | None = None  # what the verification found wrong
    first_verification: dict[str, Any] | None = None  # problem and checks of a first verification that failed

    def write(self, folder: Path) -> None:
        """Write merge.json into ``folder``."""
        atomic_write_text(folder / FILE_NAME, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> MergeRecord | None:
        """The record of a merged folder; None if there is no readable one."""
        try:
            return cls(**read_json_object_or_empty(folder / FILE_NAME))
        except TypeError:
            return None

    @property
    def is_usable(self) -> bool:
        """Whether no check failed. Without ``verified``, the memory was too small for the comparison of logits."""
        return self.verified or (self.problem is None and self.verification != "logits")

    def verdict(self) -> str:
        """The result of the verification as a sentence without a full stop."""
        if self.max_logit_difference is not None:
            return f"verified: logits within {self.max_logit_difference:.2g} of the adapter on its base"
        reason = "logits were not compared" + (f" ({self.not_compared})" if self.not_compared else "")
        if self.verification == "none":
            return f"not verified: {reason}"
        return f"tensors only: {self.tensors.get('written', 0):.0f} tensors read back are equal; {reason}"

    def same_origin(self, other: MergeRecord) -> bool:
        """Whether both models were made from the same adapter, base and dtype."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("adapter_sha256", "base", "base_revision", "quantization", "dtype", "into", "adapters")
        )

    def is_complete(self, folder: Path) -> bool:
        """Whether ``folder`` has every recorded file with the recorded size."""
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in self.files.items()
        )


def adapter_digests(adapter: Path) -> dict[str, str]:
    """The sha256 of each file of a PEFT adapter that affects its outputs. Raises UsageError if one is missing."""
    found = [adapter / name for name in _ADAPTER_FILES if (adapter / name).is_file()]
    if len(found) < 2:
        if (adapter / "adapters.npz").is_file():
            raise UsageError(
                f"{adapter} contains adapters.npz, which early versions of mlx-lm wrote.",
                remedy="Convert it to adapters.safetensors with mlx-lm, or merge it there with `mlx_lm.fuse`.",
            )
        raise UsageError(
            f"{adapter} is not a complete PEFT adapter: adapter_config.json and adapter_model.safetensors are needed.",
            remedy="Give a run directory, or the folder of an adapter.",
        )
    return {path.name: file_sha256(path) for path in found}
