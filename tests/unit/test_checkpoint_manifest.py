"""Checkpoint manifest: digests of files of several segments, and changes of the manifest itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo_cli import digests
from orpo_cli.checkpoint_manifest import (
    MANIFEST,
    CheckpointDamaged,
    CheckpointManifest,
    checkpoint_step,
    find_checkpoints,
    unusable_reason,
)
from orpo_cli.digests import file_xxh3


def test_the_digest_of_a_file_depends_on_every_byte_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in files of several segments, the last of which is shorter, and at their borders."""
    monkeypatch.setattr(digests, "SEGMENT_BYTES", 1000)
    path = tmp_path / "weights"
    content = bytes(number % 251 for number in range(3500))
    seen = set()
    for position in (None, 0, 999, 1000, 1001, 2999, 3000, 3499):
        changed = bytearray(content)
        if position is not None:
            changed[position] ^= 1
        path.write_bytes(changed)
        seen.add(file_xxh3(path))
    path.write_bytes(content[1000:2000] + content[:1000] + content[2000:])
    seen.add(file_xxh3(path))
    path.write_bytes(content[:3000])
    seen.add(file_xxh3(path))
    path.write_bytes(b"")
    seen.add(file_xxh3(path))
    assert len(seen) == 11


def test_every_change_of_the_manifest_is_noticed() -> None:
    text = CheckpointManifest(8, 2, True, True, {"model.safetensors": (12, "ab")}).to_json()
    assert CheckpointManifest.from_json(text).step == 8
    document = json.loads(text)
    changes = {"step": 9, "world_size": 1, "finite": False, "resumable": False, "files": {}}
    for name, value in changes.items():
        with pytest.raises(CheckpointDamaged):
            CheckpointManifest.from_json(json.dumps({**document, name: value}))
        with pytest.raises(CheckpointDamaged):
            CheckpointManifest.from_json(json.dumps({key: each for key, each in document.items() if key != name}))
    for broken in ("", "{}", "[]", "null", text[:-10]):
        with pytest.raises(CheckpointDamaged):
            CheckpointManifest.from_json(broken)


def test_only_folders_with_a_step_are_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-4.damaged", ".checkpoint-12.partial", "checkpoint-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3").write_text("a file")
    assert [checkpoint_step(path) for path in find_checkpoints(tmp_path)] == [9, 10]
    assert unusable_reason(tmp_path / "checkpoint-9") == "damaged: manifest.json is missing"
    assert unusable_reason(tmp_path / "checkpoint-9", needs_manifest=False) == "damaged: trainer_state.json is missing"
    (tmp_path / "checkpoint-9" / MANIFEST).write_bytes(b"\xff\xfe")
    assert unusable_reason(tmp_path / "checkpoint-9") == "damaged: manifest.json cannot be read"


def test_json_that_is_nested_too_deeply_or_has_another_type_is_damage(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-9"
    checkpoint.mkdir()
    deep = "[" * 100_000
    (checkpoint / MANIFEST).write_text(deep)
    assert unusable_reason(checkpoint) == "damaged: manifest.json cannot be read"
    (checkpoint / MANIFEST).unlink()
    (checkpoint / "trainer_state.json").write_text(deep)
    assert unusable_reason(checkpoint, needs_manifest=False) == "damaged: trainer_state.json cannot be read"
    (checkpoint / "trainer_state.json").write_text('{"global_step": 9}')
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": ["model.safetensors"]}')
    reason = unusable_reason(checkpoint, needs_manifest=False)
    assert reason == "damaged: model.safetensors.index.json has no map of the weights"
