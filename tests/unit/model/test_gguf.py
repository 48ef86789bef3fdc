"""Cache of converted GGUF files: verified when it is used, converted again when it is damaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.tiny_export import gguf_converter, make_model  # noqa: F401
from transformers import AutoModelForCausalLM

from orpo_cli.api.quiet import console_of_call
from orpo_cli.errors import MachineError
from orpo_cli.exporting.export import export
from orpo_cli.exporting.export_request import ExportRequest
from orpo_cli.model.gguf import convert_gguf_cached


@pytest.fixture(scope="module")
def gguf_file(gguf_converter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("gguf")
    export(ExportRequest(make_model(folder / "mine"), folder / "out", formats=["gguf"]))
    return folder / "out" / "mine-f16.gguf"


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(60)[None]).logits


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-400] ^= 64
    path.write_bytes(content)


def test_a_damaged_conversion_is_made_again(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    notes: list[str] = []
    folder = convert_gguf_cached(gguf_file, notes.append)
    expected = logits(folder)
    assert convert_gguf_cached(gguf_file, notes.append) == folder
    assert notes == []
    for damage in (
        lambda: flip(folder / "model.safetensors"),
        lambda: (folder / "model.safetensors").unlink(),
        lambda: (folder / "tokenizer.json").write_text("{}"),
        lambda: (folder / "config.json").write_text("{"),
        lambda: [
            path.unlink() for path in folder.iterdir() if path.name != "config.json"
        ],  # as an older version left it
    ):
        damage()
        assert convert_gguf_cached(gguf_file, notes.append) == folder
        assert f"{folder} is damaged" in notes.pop()
        assert torch.equal(logits(folder), expected)


def test_a_conversion_needs_the_disk_space_of_its_weights_in_float32(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    size = gguf_file.stat().st_size  # in float16
    monkeypatch.setattr("orpo_cli.model.gguf.shutil.disk_usage", lambda _: SimpleNamespace(free=size))
    with pytest.raises(MachineError, match=r"mine-f16\.gguf needs 0\.00 GB of disk, 0\.00 GB are free"):
        convert_gguf_cached(gguf_file)
    monkeypatch.setattr("orpo_cli.model.gguf.shutil.disk_usage", lambda _: SimpleNamespace(free=2 * size))
    folder = convert_gguf_cached(gguf_file)
    assert (folder / "model.safetensors").stat().st_size < 2 * size


def test_a_call_of_the_python_interface_shows_no_bar(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    with console_of_call(verbose=False):
        convert_gguf_cached(gguf_file, lambda _: None)
        export(ExportRequest(make_model(tmp_path / "mine"), tmp_path / "out", formats=["gguf"]))
    assert "Converting" not in capfd.readouterr().err


def test_a_damaged_gguf_file_is_named(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    content = gguf_file.read_bytes()
    path = tmp_path / "x.gguf"
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
    for damaged in (lfs, b"", b"not it" * 100, content[:2000], content[: len(content) // 2], content[:8] + bytes(400)):
        path.write_bytes(damaged)
        with pytest.raises(MachineError) as caught:
            convert_gguf_cached(path, lambda _: None)
        assert str(path) in str(caught.value)
        assert caught.value.remedy
        assert [each.name for each in (tmp_path / "cache" / "gguf").iterdir() if each.is_dir()] == []
