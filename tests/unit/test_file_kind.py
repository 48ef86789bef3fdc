"""Kind of a file by its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orpo_cli.file_kind import file_kind


@pytest.mark.parametrize("length", [640, 896, 1152, 65024, 65280])
def test_safetensors_whose_header_has_the_length_of_a_signature(length: int, tmp_path: Path) -> None:
    """The file begins with this length: 640 is also the beginning of a pickle."""
    path = tmp_path / "model.safetensors"
    for padding in range(length - 200, length):
        save_file({"weight": torch.zeros(2)}, path, metadata={"x": "x" * padding})
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert file_kind(path) is None


def test_a_pickle_is_still_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    kind = file_kind(tmp_path / "old.bin")
    assert kind is not None
    assert kind.name == "pickle"
