"""Damaged model files: which file of a model is damaged, and what it is.

The libraries raise whatever their parsers raise (KeyError, TypeError, UnpicklingError), mostly without the name of the file. Pickles
(``pytorch_model.bin``, ``adapter_model.bin``) are loaded with ``weights_only``, which never executes their code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.errors import MachineError, UsageError
from orpo_cli.file_kind import file_kind
from orpo_cli.json_files import read_json_object

if TYPE_CHECKING:
    from torch import Tensor

JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json",
    "model.safetensors.index.json", "pytorch_model.bin.index.json", "tokenizer.json",
)  # fmt: skip
PICKLE_PATTERNS = ("pytorch_model*.bin", "adapter_model*.bin")
AGAIN = "Download or save it again."
SAFETENSORS = "Get the model in safetensors, or convert it on the machine of somebody who trusts the file."
_KIND_OF = {".bin": "zip", ".pt": "zip", ".pth": "zip", ".gguf": "gguf"}  # torch.save writes zip archives


def check_json_files(folder: Path) -> None:
    """Raise MachineError for a damaged configuration. Some of them transformers would ignore in silence.

    Without tokenizer.json, which has many MB and is never ignored.
    """
    for name in JSON_FILES[:-1]:
        _check_json(folder / name)


def damaged_file_error(folder: Path) -> MachineError | None:
    """Error for the first damaged file of a model or adapter in ``folder``; None where all can be read."""
    try:
        for name in JSON_FILES:
            _check_json(folder / name)
        for path in sorted(folder.glob("*.safetensors")):
            _check_safetensors(path)
        for path in pickle_files(folder):
            load_torch_file(path)
    except MachineError as error:
        return error
    return None


def damaged_gguf_error(path: Path) -> MachineError | None:
    """Error for a .gguf file that is none, or truncated; None where its structure can be read."""
    from gguf import GGUFReader

    try:
        check_kind(path)
        reader = GGUFReader(path)
        for tensor in reader.tensors:
            assert tensor.data is not None
    except MachineError as error:
        return error
    except Exception as error:  # the reader maps the file and raises whatever a damaged one leads to
        return MachineError(f"{path}: cannot be read as GGUF: {_first_line(error)}.", remedy=AGAIN)
    return None


def pickle_files(folder: Path) -> list[Path]:
    """The pickles with the weights of a model or adapter; empty where it also has safetensors, which are used then."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(path for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))


def load_torch_file(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file of ``torch.save``, mapped into memory where its format supports that; executes no code of it.

    Raises MachineError that says what the file is where it is none, is damaged, or contains anything but tensors.
    """
    import torch

    check_kind(path)
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, error) from error
    except Exception as error:  # the unpickler raises whatever a damaged file leads to
        reason = f"it is truncated or damaged ({_first_line(error)})"
        raise MachineError(f"{path}: cannot be read: {reason}.", remedy=AGAIN) from error
    wrong = _first_other_value(content)
    if wrong is not None:
        raise MachineError(
            f"{path}: contains {wrong}, where a model has only named tensors.",
            remedy="Save the state_dict of the model, or get it in safetensors.",
        )
    tensors: Mapping[str, Tensor] = content
    return tensors


def _first_other_value(content: object) -> str | None:
    """What a file of weights contains besides named tensors."""
    import torch

    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            return f"a {type(value).__name__} under {str(name)[:100]!r}"
    return None if content else "nothing"


def _unpickling_error(path: Path, error: pickle.UnpicklingError) -> MachineError:
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return MachineError(
            f"{path}: its pickle needs {found[1]}, which is not a tensor: it would execute code. Nothing was executed.",
            remedy=SAFETENSORS,
        )
    return MachineError(f"{path}: cannot be read: it is no file of torch.save, or damaged.", remedy=AGAIN)


def check_kind(path: Path) -> None:
    """Raise MachineError for a file whose content is not what its name says, such as a git-lfs pointer."""
    try:
        kind = file_kind(path)
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if kind is not None and kind.name not in (_KIND_OF.get(path.suffix), "pickle" if path.suffix in _KIND_OF else None):
        raise MachineError(f"{path}: cannot be read: it is {kind.description}.", remedy=kind.remedy)


def _check_json(path: Path) -> None:
    if not path.is_file():
        return
    check_kind(path)
    try:
        read_json_object(path, remedy=AGAIN)
    except UsageError as error:  # a model is part of the machine, and not of the command line
        raise MachineError(error.message, remedy=error.remedy) from error


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    check_kind(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise MachineError(f"{path}: its weights cannot be read: {_first_line(error)}.", remedy=AGAIN) from error


def _first_line(error: Exception) -> str:
    lines: Iterator[str] = iter(str(error).strip().splitlines())
    return next(lines, type(error).__name__)[:150].rstrip(".")
