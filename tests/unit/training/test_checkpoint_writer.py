"""Checkpoint writer: which errors of the disk end a save."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest

from orpo_cli.checkpoint_manifest import MANIFEST
from orpo_cli.training.checkpoint_writer import EARLY_BYTES, CheckpointWriter, sync


def test_a_file_system_that_cannot_synchronize_folders_is_accepted() -> None:
    """As /proc, which reports EINVAL."""
    sync(Path("/proc"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))


def stage(writer: CheckpointWriter) -> None:
    with (writer.staged / "optimizer.pt").open("wb") as file:
        file.truncate(EARLY_BYTES)


def test_an_early_flush_that_may_not_open_files_does_not_fail_the_save(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with CheckpointWriter(tmp_path, 3) as writer:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            writer._flusher.join(10)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not writer._flusher.is_alive()
        stage(writer)
        writer.publish(world_size=1, resumable=True)
    assert (tmp_path / "checkpoint-3" / MANIFEST).is_file()


def test_an_early_flush_that_loses_data_fails_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail_early(descriptor: int) -> None:
        if threading.current_thread().name == "checkpoint-flush":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_early)
    with CheckpointWriter(tmp_path, 3) as writer:
        stage(writer)
        writer._flusher.join(10)
        with pytest.raises(OSError, match="Input/output error"):
            writer.publish(world_size=1, resumable=True)
    assert list(tmp_path.iterdir()) == []
