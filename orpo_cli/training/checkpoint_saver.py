"""Checkpoint saver of a trainer: files are written to a staging folder, which a thread publishes when they are complete.

With several processes all of them save together. An error of one, for example of a full disk, ends the save on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli.training.agreement import Agreement
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.training.retention import remove_old_checkpoints

if TYPE_CHECKING:
    from transformers import TrainingArguments


class CheckpointSaver:
    """Saves one checkpoint after the other. ``check_owned`` raises an error where another process has taken the run over.

    Each process writes its random state; the first one writes all else, and publishes.
    """

    def __init__(self, args: TrainingArguments, agreement: Agreement, note: Callable[[str], None]) -> None:
        self.args, self.agreement, self.note = args, agreement, note
        self.check_owned: Callable[[], None] = lambda: None
        self.in_background = True
        self.writer: CheckpointWriter | None = None  # of the checkpoint that is being written
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publish-checkpoint")
        self._publishing: tuple[CheckpointWriter, Future[None]] | None = None
        self._deferred: list[Exception] = []

    def save(self, step: int, write: Callable[[CheckpointWriter], str | None]) -> None:
        """Let ``write`` write the files of a checkpoint, and publish it in another thread.

        ``write`` returns the best checkpoint, which is kept.
        """
        owner = self.args.should_save
        with ExitStack() as staging:
            with self.agreement.together():  # the owner has removed the folder of a killed process
                self.finish()
                writer = CheckpointWriter(Path(self.args.output_dir), step, owner=owner, check_owned=self.check_owned)
                self.writer = staging.enter_context(writer)
            try:
                with self.agreement.together():
                    best = self._write(writer, write)
            finally:
                self.writer = None
            (in_foreground,) = self.agreement.max([not self.in_background])
            if owner:
                publishing = self._publisher.submit(self._publish, writer, best, staging.pop_all())
                self._publishing = writer, publishing
        if in_foreground:
            self.finish_together()

    def _write(self, writer: CheckpointWriter, write: Callable[[CheckpointWriter], str | None]) -> str | None:
        self._deferred = []
        best = write(writer)
        if self._deferred:
            raise self._deferred[0]
        return best

    @contextmanager
    def deferring_errors(self) -> Iterator[None]:
        """Context of writing a file, after which the processes communicate again: its error is raised when all is written."""
        try:
            yield
        except Exception as error:
            if self.writer is None or self.agreement.num_processes == 1:
                raise
            self._deferred.append(error)

    def _publish(self, writer: CheckpointWriter, best: str | None, staging: ExitStack) -> None:
        with staging:
            manifest = writer.publish(world_size=self.args.world_size, resumable=not self.args.save_only_model)
        if not manifest.finite:
            self.note(f"checkpoint-{writer.step} has infinite or NaN values: `--resume auto` will not use it")
        remove_old_checkpoints(writer.final.parent, writer.step, self.args.save_total_limit, best)

    def has_failed(self) -> bool:
        """Whether the last checkpoint could not be published."""
        if self._publishing is None:
            return False
        published = self._publishing[1]
        return published.done() and published.exception() is not None

    def finish(self) -> None:
        """Wait until the last checkpoint is complete. Raises OSError, for example where the disk is full."""
        if self._publishing is not None:
            writer, published = self._publishing
            try:
                published.result()
            except KeyboardInterrupt:  # a second Ctrl-C stops at once
                writer.cancel()
                wait([published])  # while this process owns the run: the thread changes its directory
                raise
            finally:
                self._publishing = None

    def finish_together(self) -> None:
        """``finish``, on all ranks: an error ends all of them."""
        with self.agreement.together():
            self.finish()
