"""Weight files: safetensors read and written one tensor at a time."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from orpo_cli.merging.tensor_files import SafetensorsFile, SafetensorsWriter, TensorSpec


def test_files_have_the_bytes_that_safetensors_writes(tmp_path):
    tensors = {
        "b": torch.randn(3, 5), "a": torch.arange(7), "c": torch.randn(4).bfloat16(), "é": torch.tensor([True]),
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5, dtype=torch.float16), "d": torch.randn(2).double(),
    }  # fmt: skip
    save_file(tensors, tmp_path / "expected", metadata={"format": "pt"})
    with SafetensorsWriter(
        tmp_path / "written", {name: TensorSpec.of(each) for name, each in tensors.items()}
    ) as writer:
        for name, tensor in reversed(tensors.items()):
            writer.write(name, tensor)
    assert (tmp_path / "written").read_bytes() == (tmp_path / "expected").read_bytes()
    file = SafetensorsFile(tmp_path / "expected")
    assert all(torch.equal(file.read(name), each) for name, each in tensors.items())
