"""Weight files, read and written one tensor at a time.

The writer of safetensors needs every tensor of a file in memory, and its reader maps the complete file, whose pages count as
used memory. The format is 8 bytes of length, a JSON header and the bytes of the tensors
(https://github.com/huggingface/safetensors#format), so this module reads and writes them by offset.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import MachineError
from orpo_cli.model.model_files import check_kind, load_torch_file

if TYPE_CHECKING:
    from torch import Tensor

# Names of dtypes in torch and in the format, in the order in which safetensors sorts tensors.
FORMAT_NAMES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32",
    "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
TORCH_NAMES = {format_name: torch_name for torch_name, format_name in FORMAT_NAMES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """Dtype (torch's name) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the values."""
        import torch

        return math.prod(self.shape) * int(getattr(torch, self.dtype).itemsize)

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The spec of a tensor."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


class SafetensorsFile:
    """A safetensors file whose tensors are read one by one. Raises MachineError if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_kind(path)
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length < path.stat().st_size:
                    raise ValueError("its header is truncated")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            self.specs = {
                name: TensorSpec(TORCH_NAMES[each["dtype"]], tuple(each["shape"])) for name, each in header.items()
            }
            self._offsets = {name: 8 + length + each["data_offsets"][0] for name, each in header.items()}
            end = max((self._offsets[name] + spec.bytes for name, spec in self.specs.items()), default=0)
            if end > path.stat().st_size:
                raise ValueError("the file is truncated")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MachineError(
                f"{path}: its weights cannot be read: {error}", remedy="Download or save them again."
            ) from error

    def read(self, name: str) -> Tensor:
        """A copy of one tensor."""
        import torch

        spec = self.specs[name]
        flat = torch.empty(spec.bytes, dtype=torch.uint8)
        if spec.bytes:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._offsets[name])
                view = memoryview(raw_bytes(flat))
                done = 0
                while done < spec.bytes:
                    count = file.readinto(view[done:])
                    if not count:
                        raise MachineError(f"{self.path} is truncated.", remedy="Download or save it again.")
                    done += count
        return flat.view(getattr(torch, spec.dtype)).reshape(spec.shape)


class TorchFile:
    """A file of torch.save (pytorch_model.bin), mapped into memory if its format supports that. Raises MachineError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = load_torch_file(path)
        self.specs = {name: TensorSpec.of(tensor) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """A copy of one tensor."""
        import torch

        return self._tensors[name].detach().clone(memory_format=torch.contiguous_format)


class SafetensorsWriter(AbstractContextManager["SafetensorsWriter"]):
    """A safetensors file with known specs, whose tensors are written in any order, each at its offset.

    The same tensors give the same bytes as ``safetensors.torch.save_file``.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        order = list(FORMAT_NAMES)
        names = sorted(specs, key=lambda name: (order.index(specs[name].dtype), name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            begin, end = end, end + specs[name].bytes
            header[name] = {
                "dtype": FORMAT_NAMES[specs[name].dtype],
                "shape": list(specs[name].shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._offsets = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in names}
        self._missing = set(names)
        self._specs = specs
        self.path = path
        self._file = path.open("wb", buffering=0)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(8 + len(text) + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor at its offset."""
        assert TensorSpec.of(tensor) == self._specs[name], f"{name} has another dtype or shape than its spec"
        view, begin = memoryview(raw_bytes(tensor)), self._offsets[name]
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], begin + done)
        self._missing.discard(name)

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the file and check that every tensor was written."""
        self._file.close()
        assert kind is not None or not self._missing, f"never written: {sorted(self._missing)[:3]}"


def raw_bytes(tensor: Tensor) -> Any:
    """The bytes of a CPU tensor as a NumPy array, without a copy if it is contiguous."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
