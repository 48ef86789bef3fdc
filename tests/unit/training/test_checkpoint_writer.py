"""Checkpoint writer: which errors of the disk end a save."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orpo_cli.training.checkpoint_writer import CheckpointWriter, sync


def test_a_file_system_that_cannot_synchronize_folders_is_accepted() -> None:
    """As /proc, which reports EINVAL."""
    sync(Path("/proc"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))


def test_data_that_the_disk_lost_fail_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail_for_weights(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("optimizer.pt"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_weights)
    with CheckpointWriter(tmp_path, 3) as writer:
        stage(writer)
        with pytest.raises(OSError, match="Input/output error"):
            writer.publish(world_size=1, resumable=True)
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_save_leaves_nothing(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, 3) as writer:
        stage(writer)
        writer.cancel()
        with pytest.raises(InterruptedError):
            writer.publish(world_size=1, resumable=True)
    assert list(tmp_path.iterdir()) == []


def stage(writer: CheckpointWriter) -> None:
    (writer.staged / "optimizer.pt").write_bytes(b"state")
