"""Checkpoint writer: writes to a staging folder, synchronizes it to disk, and renames it when it is complete.

A process that is killed leaves either the complete checkpoint or none. Threads synchronize and digest finished files while the
trainer writes the next ones, so that little is left to do at the end.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch

from orpo_cli.atomic import unused_name
from orpo_cli.checkpoint_manifest import (
    MANIFEST,
    CheckpointManifest,
    checkpoint_files,
    unusable_reason,
)
from orpo_cli.digests import join_digests, segment_digest, segment_starts

EARLY_BYTES = 16 << 20  # a file of this size is synchronized while it grows
POLL_SECONDS = 0.02
THREADS = 4  # they wait for the disk
_LOST_DATA = {errno.EIO, errno.ENOSPC, errno.EDQUOT}  # what fsync reports once
_NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP}  # on some network and FUSE file systems


class CheckpointWriter:
    """Context in which ``staged`` is written, which ``publish`` renames to ``final``. An error removes the staging folder.

    Only the process with ``owner`` creates, publishes and removes the folder. ``check_owned`` raises an error where another
    process has taken the run over; the folder may then be the one of that process.
    """

    def __init__(
        self, parent: Path, step: int, *, owner: bool = True, check_owned: Callable[[], None] = lambda: None
    ) -> None:
        self.step, self.owner, self.check_owned = step, owner, check_owned
        self.final = parent / f"checkpoint-{step}"
        self.staging = parent / f".checkpoint-{step}.partial"
        self.staged = self.staging / self.final.name
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="checkpoint")
        self._digests: dict[Path, list[Future[bytes]]] = {}
        self._synced: list[Future[None]] = []
        self._finite: Future[bool] | None = None
        self._flusher = threading.Thread(target=self._flush_growing_files, name="checkpoint-flush", daemon=True)
        self._flush_errors: list[OSError] = []
        self._ended = threading.Event()

    def __enter__(self) -> CheckpointWriter:
        if self.owner:
            self.check_owned()
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staged.mkdir(parents=True)
            self._flusher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_flushing()
        self._pool.shutdown(cancel_futures=True)
        if self.owner:
            self.check_owned()
            shutil.rmtree(self.staging, ignore_errors=True)

    def check_finite(self, tensors: Iterable[torch.Tensor]) -> None:
        """Look for infinite and NaN values in the background, for the manifest. The tensors must not change meanwhile."""
        self._finite = self._pool.submit(all_finite, list(tensors))

    def files_written(self) -> None:
        """Synchronize and digest all files that are staged by now, in the background: no process writes to them any more."""
        for path in checkpoint_files(self.staged):
            if path not in self._digests:
                starts = segment_starts(path.stat().st_size)
                self._digests[path] = [self._pool.submit(segment_digest, path, start) for start in starts]
                self._synced.append(self._pool.submit(sync, path))

    def sync_files(self) -> None:
        """Synchronize the files of a process that is not the owner: another machine cannot do it. Raises OSError."""
        for path in checkpoint_files(self.staged):
            sync(path)

    def publish(self, *, world_size: int, resumable: bool) -> CheckpointManifest:
        """Synchronize all files, write the manifest, and rename the folder. Raises OSError, for example where the disk is full.

        A checkpoint of the same step that can be resumed from stays: it has the same state. Another one is renamed.
        """
        self.files_written()
        self._end_flushing()
        digests = {path: join_digests(each.result() for each in parts) for path, parts in self._digests.items()}
        for synced in self._synced:
            synced.result()
        if self._flush_errors:  # the kernel reports an error once, so that a later fsync would succeed
            raise self._flush_errors[0]
        finite = self._finite is None or self._finite.result()
        files = {
            path.relative_to(self.staged).as_posix(): (path.stat().st_size, digest) for path, digest in digests.items()
        }
        manifest = CheckpointManifest(self.step, world_size, finite, resumable, files)
        (self.staged / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        for path in (self.staged / MANIFEST, *(each for each in self.staged.rglob("*") if each.is_dir()), self.staged):
            sync(path)
        self.check_owned()
        if os.path.lexists(self.final):  # also a link to nothing
            reason = unusable_reason(self.final)
            if reason is None:
                return manifest
            suffix = "damaged" if reason.startswith("damaged") else "replaced"
            self.final.rename(unused_name(self.final.with_name(f"{self.final.name}.{suffix}")))
        self.staged.rename(self.final)
        sync(self.final.parent)
        return manifest

    def _flush_growing_files(self) -> None:
        """Synchronize large files while they grow: the disk works while the trainer serializes."""
        flushed: dict[Path, int] = {}
        while not self._ended.wait(POLL_SECONDS):
            try:
                for path in checkpoint_files(self.staged):
                    with suppress(FileNotFoundError):  # a temporary file of the library
                        size = path.stat().st_size
                        if size - flushed.get(path, 0) >= EARLY_BYTES and path not in self._digests:
                            sync(path)
                            flushed[path] = size
            except OSError as error:
                if error.errno in _LOST_DATA:
                    self._flush_errors.append(error)
                return  # ``publish`` synchronizes everything

    def _end_flushing(self) -> None:
        self._ended.set()
        if self._flusher.is_alive():
            self._flusher.join()


def remove_staging(checkpoints: Path) -> None:
    """Remove what a killed process was writing or removing: it never was a checkpoint, or is none any more."""
    for folder in checkpoints.glob(".checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk. Raises OSError; a file system may not do it for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value of the floating-point tensors is infinite or NaN."""
    with torch.no_grad():
        extremes = [torch.stack(torch.aminmax(each)) for each in tensors if each.is_floating_point() and each.numel()]
        return all(bool(each.isfinite().all()) for each in extremes)
