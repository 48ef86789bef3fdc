"""Damaged model files: exit code 3 with the name of the file and what it is; code in a pickle is never executed."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import save_tiny_model, tiny_llama

from orpo_cli.errors import MachineError
from orpo_cli.merging.peft_adapters import Adapter, load_adapters
from orpo_cli.merging.tensor_files import TorchFile
from orpo_cli.model.base_model import load_base
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_tokenizer
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import ModelSection

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
HTML = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"
Damage = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in safetensors, and the same one as a pickle."""
    folder = tmp_path_factory.mktemp("models")
    safe, pickled = save_tiny_model(folder / "safe"), folder / "pickled"
    shutil.copytree(safe, pickled)
    torch.save(load_file(safe / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    return {"safe": safe, "pickled": pickled}


def load(folder: Path) -> list[str]:
    """Load everything of a model; returns the notes."""
    section = ModelSection(model_name_or_path=str(folder)).model_dump()
    source = ModelSource(ModelPlan(**{**section, "dtype": "float32", "attn_implementation": "sdpa"}))
    notes: list[str] = []
    source.config()
    source.generation_config()
    load_tokenizer(source, notes.append)
    load_base(source, None, "cpu", notes.append)
    return notes


def damaged(original: Path, folder: Path, name: str, damage: Damage) -> Path:
    shutil.copytree(original, folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    return folder


def header(change: Callable[[bytes], bytes]) -> Damage:
    """Damage of the header of a safetensors file."""

    def apply(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        changed = change(content[8 : 8 + length])
        return len(changed).to_bytes(8, "little") + changed + content[8 + length :]

    return apply


def saved(value: Any) -> Damage:
    """A file of ``torch.save`` with another value."""

    def apply(_: bytes) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return apply


class Code:
    """Object whose pickle creates a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['ORPO_TEST_EXECUTED']}",)


def zip_of_something_else(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "hello")
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    for at in range(100, 160):
        changed[at] ^= 255
    return bytes(changed)


SAFETENSORS: dict[str, Damage] = {
    "a git-lfs pointer": lambda _: LFS,
    "a web page": lambda _: HTML,
    "empty": lambda _: b"",
    "filled with zero bytes": lambda content: bytes(len(content)),
    "file not fully covered": lambda content: content[: len(content) // 2],
    "invalid header length": lambda content: content[:50],
    "header too large": lambda content: (2**40).to_bytes(8, "little") + content[8:],
    "unknown variant `X32`": header(lambda text: text.replace(b'"F32"', b'"X32"')),
    "invalid JSON in header": header(lambda text: b"{{" + text[2:]),
    "invalid offset": header(lambda text: text.replace(b"[0,", b"[9,", 1)),
}
PICKLES: dict[str, Damage] = {
    "a git-lfs pointer": lambda _: LFS,
    "a web page": lambda _: HTML,
    "empty": lambda _: b"",
    "filled with zero bytes": lambda content: bytes(len(content)),
    "truncated or damaged": lambda content: content[: len(content) // 2],
    "not in a subdirectory": zip_of_something_else,
    "damaged": flipped,
    "no file of torch.save": lambda _: random.Random(1).randbytes(5000),
    "contains a list": saved([torch.ones(2)]),
    "contains a str under 'name'": saved({"weight": torch.ones(2), "name": "x"}),
    "contains a dict under 'inner'": saved({"inner": {"weight": torch.ones(2)}}),
    "contains nothing": saved({}),
    "needs posix.system": saved({"weight": Code()}),
    "needs torch.nn.modules.linear.Linear": saved({"model": torch.nn.Linear(2, 2)}),
}
JSON: dict[str, Damage] = {
    "a git-lfs pointer": lambda _: LFS,
    "a web page": lambda _: HTML,
    "empty": lambda _: b"",
    "not JSON": lambda content: content[: len(content) // 2],
    "not a JSON object": lambda _: b"[1]",
    "UTF-16 text": lambda content: content.decode().encode("utf-16"),
}
CASES = [
    *(("safe", "model.safetensors", reason, damage) for reason, damage in SAFETENSORS.items()),
    *(("pickled", "pytorch_model.bin", reason, damage) for reason, damage in PICKLES.items()),
    *(
        ("safe", name, reason, damage)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
        for reason, damage in JSON.items()
    ),
]


@pytest.mark.parametrize(("original", "name", "reason", "damage"), CASES, ids=[" ".join(case[1:3]) for case in CASES])
def test_a_damaged_file_is_named_with_what_it_is(
    original: str, name: str, reason: str, damage: Damage, originals: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ORPO_TEST_EXECUTED", str(tmp_path / "executed"))
    folder = damaged(originals[original], tmp_path / "x", name, damage)
    with pytest.raises(MachineError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert reason in str(caught.value)
    assert caught.value.remedy
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_json_with_other_types_names_the_file(name: str, originals: dict[str, Path], tmp_path: Path) -> None:
    def change(content: bytes) -> bytes:
        return json.dumps(
            {key: value if isinstance(value, str) and key != "model_type" else [["x"]] for key, value in json.loads(content).items()}
        ).encode()  # fmt: skip

    folder = damaged(originals["safe"], tmp_path / "x", name, change)
    with pytest.raises(MachineError, match=name) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_a_pickled_model_is_loaded_and_said(originals: dict[str, Path]) -> None:
    assert f"{originals['pickled']} is stored as a pickle (pytorch_model.bin): loaded without executing it" in load(
        originals["pickled"]
    )
    assert not any("pickle" in note for note in load(originals["safe"]))
    weights = TorchFile(originals["pickled"] / "pytorch_model.bin")
    assert torch.equal(
        weights.read("model.norm.weight"), load_file(originals["safe"] / "model.safetensors")["model.norm.weight"]
    )


@pytest.mark.parametrize("reason", [reason for reason in PICKLES if reason != "contains nothing"])
def test_a_damaged_adapter_is_named(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    monkeypatch.setenv("ORPO_TEST_EXECUTED", str(tmp_path / "executed"))
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "a", safe_serialization=False)
    path = tmp_path / "a" / "adapter_model.bin"
    torch.save(get_peft_model_state_dict(model), path)
    (tmp_path / "a" / "adapter_model.safetensors").unlink(missing_ok=True)
    load_adapters(tiny_llama(), [Adapter(tmp_path / "a")])
    path.write_bytes(PICKLES[reason](path.read_bytes()))
    with pytest.raises(MachineError) as caught:
        load_adapters(tiny_llama(), [Adapter(tmp_path / "a")])
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("reason", JSON)
def test_a_damaged_adapter_config_is_named(reason: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_bytes(JSON[reason](path.read_bytes()))
    with pytest.raises(MachineError, match=reason) as caught:
        load_adapters(tiny_llama(), [Adapter(tmp_path)])
    assert str(caught.value).startswith(f"{path}: ")
