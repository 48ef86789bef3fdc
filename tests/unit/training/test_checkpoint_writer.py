"""Checkpoint writer: which errors of the disk end a save, and what counts as finite."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orpo_cli.checkpoint_manifest import read_manifest
from orpo_cli.run_lock import RunLost
from orpo_cli.training.checkpoint_saver import CheckpointSaver
from orpo_cli.training.checkpoint_writer import CheckpointWriter, all_finite, sync


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


def test_a_process_that_lost_the_run_writes_no_manifest(tmp_path: Path) -> None:
    """The folder may be the one in which the new owner writes its checkpoint of the same step."""

    def lost() -> None:
        raise RunLost("another process has taken the run over")

    writer = CheckpointWriter(tmp_path, 3)
    stage(writer.__enter__())
    writer.check_owned = lost
    with pytest.raises(RunLost):
        writer.publish(world_size=1, resumable=True)
    assert [path.name for path in writer.staged.iterdir()] == ["optimizer.pt"]


def test_a_second_ctrl_c_waits_for_the_thread_that_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would change the directory after this process has released the lock of the run."""
    saver, ended = object.__new__(CheckpointSaver), threading.Event()
    writer = CheckpointWriter(tmp_path, 3)

    def publish() -> None:
        writer._cancelled.wait()
        time.sleep(0.05)
        ended.set()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with ThreadPoolExecutor(1) as pool:
        saver._publishing = writer, pool.submit(publish)
        with pytest.raises(KeyboardInterrupt):
            saver.finish()
        assert ended.is_set()


def stage(writer: CheckpointWriter) -> None:
    torch.save({"state": {}}, writer.staged / "optimizer.pt")


@pytest.mark.parametrize("odd", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_model.bin", "optimizer.pt"])
def test_the_manifest_says_whether_what_was_written_is_finite(tmp_path: Path, name: str, odd: float) -> None:
    with CheckpointWriter(tmp_path, 3) as writer:
        tensor = torch.tensor([1.0, odd], dtype=torch.bfloat16)
        if name == "adapter_model.safetensors":
            save_file({"a": torch.ones(2), "b": tensor}, writer.staged / name)
        else:
            torch.save(
                {"state": {0: {"step": 3, "exp_avg": tensor}}, "param_groups": [{"lr": 1e-3}]}, writer.staged / name
            )
        manifest = writer.publish(world_size=1, resumable=True)
    assert manifest.finite == (odd == 0.0)
    assert read_manifest(tmp_path / "checkpoint-3") == manifest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [4, 400_000])
def test_values_that_are_not_finite_are_found_and_large_ones_are_finite(dtype: torch.dtype, size: int) -> None:
    def tensors(value: float) -> list[torch.Tensor]:
        odd = torch.ones(3, size, dtype=dtype)
        odd[1, 2] = value
        return [torch.empty(0, dtype=dtype), torch.tensor(1.0, dtype=dtype), torch.tensor(5), odd.T]

    largest = torch.finfo(dtype).max
    assert all(all_finite(tensors(value)) for value in (0.0, largest, -largest))
    assert not any(all_finite(tensors(value)) for value in (float("nan"), float("inf"), -float("inf")))
