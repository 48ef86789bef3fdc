"""Checkpoint writer: writes to a staging folder, synchronizes it to disk, and renames it when it is complete.

A process that is killed leaves either the complete checkpoint or none. The trainer waits only until the files are written;
``publish`` runs in another thread during the next steps, and tests what was written for values that are not finite.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from torch.utils._pytree import tree_leaves
from transformers.trainer import OPTIMIZER_NAME
from transformers.trainer_pt_utils import safe_globals

from orpo_cli.atomic import unused_name
from orpo_cli.checkpoint_manifest import (
    MANIFEST,
    CheckpointManifest,
    checkpoint_files,
    unusable_reason,
    weight_files,
)
from orpo_cli.digests import file_xxh3

THREADS = 4  # they wait for the disk
_LARGE = 1 << 20  # values of a tensor
_PART = 1 << 26  # values tested at once: torch.dot takes fewer than 2^31, and half precision is converted
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
        self._cancelled = threading.Event()

    def __enter__(self) -> CheckpointWriter:
        if self.owner:
            self.check_owned()
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staged.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.owner:
            self.check_owned()
            shutil.rmtree(self.staging, ignore_errors=True)

    def cancel(self) -> None:
        """Let a ``publish`` in another thread raise OSError, unless it is about to rename the folder."""
        self._cancelled.set()

    def publish(self, *, world_size: int, resumable: bool) -> CheckpointManifest:
        """Synchronize all files, write the manifest, and rename the folder. Raises OSError, for example where the disk is full.

        A checkpoint of the same step that can be resumed from stays: it has the same state. Another one is renamed.
        """
        paths = checkpoint_files(self.staged)
        with ThreadPoolExecutor(THREADS, thread_name_prefix="checkpoint") as pool:
            synced, digests = pool.map(sync, paths), pool.map(file_xxh3, paths)
            files = {
                path.relative_to(self.staged).as_posix(): (path.stat().st_size, digest)
                for path, digest in zip(paths, digests, strict=True)
            }
            list(synced)  # raises the first error
        finite = all_finite(saved_tensors(self.staged))
        if self._cancelled.is_set():
            raise InterruptedError(errno.EINTR, "the save of a checkpoint was interrupted", str(self.final))
        self.check_owned()  # a new owner may write its checkpoint of this step in the same folder
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


def saved_tensors(folder: Path) -> Iterator[torch.Tensor]:
    """The weights and the tensors of the optimizer in a checkpoint. They are mapped: nothing is copied."""
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                yield from (file.get_tensor(name) for name in file.keys())  # noqa: SIM118
        else:
            yield from _pickled_tensors(path)
    if (optimizer := folder / OPTIMIZER_NAME).is_file():
        yield from _pickled_tensors(optimizer)


def _pickled_tensors(path: Path) -> Iterator[torch.Tensor]:
    with safe_globals():
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    yield from (each for each in tree_leaves(state) if isinstance(each, torch.Tensor))


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value of the floating-point tensors is infinite or NaN.

    It runs while another thread trains. So small tensors are reduced in one call, which needs the interpreter
    once, and large ones by a product of BLAS, which does not wait for the threads of torch: one ``aminmax`` a tensor took up to
    15 times as long. Large values can overflow in a sum of squares; only then each value is tested.
    """
    with torch.no_grad():
        floating = [each for each in tensors if each.is_floating_point()]
        small = [each for each in floating if each.numel() < _LARGE]
        large = [part for each in floating if each.numel() >= _LARGE for part in torch.split(each.reshape(-1), _PART)]
        sums = [torch.nn.utils.get_total_norm(small, foreach=True)]
        sums += [torch.dot(wide, wide) for wide in (part.to(_wide(part.dtype)) for part in large)]
        return all(bool(each.isfinite()) for each in sums) or all(bool(each.isfinite().all()) for each in floating)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
