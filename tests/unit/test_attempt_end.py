"""End of an attempt: what an interrupted one records, and what it tells the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.tiny_run import RECIPE, make_plan

from orpo_cli.digests import SEGMENT_BYTES
from orpo_cli.errors import Interrupted
from orpo_cli.run_creation import create_run
from orpo_cli.training.checkpoint_writer import CheckpointWriter
from orpo_cli.workflows.attempt_end import recording_interruption


def test_the_message_about_the_last_checkpoint_does_not_read_its_files(tmp_path: Path) -> None:
    """Reading them takes minutes for a large model, in which the user waits after Ctrl-C."""
    with create_run(make_plan(tmp_path / "run", "x"), RECIPE) as run:
        with CheckpointWriter(run.checkpoints, 5) as writer:
            with (writer.staged / "scheduler.pt").open("wb") as file:
                file.truncate(4 * SEGMENT_BYTES)
            writer.publish(world_size=1, resumable=True)
        read_before = bytes_read()
        with pytest.raises(Interrupted, match=r"the last checkpoint is .*checkpoint-5"), recording_interruption(run):
            raise KeyboardInterrupt
        assert bytes_read() - read_before < SEGMENT_BYTES
    assert run.read_run()["status"] == "interrupted"


def bytes_read() -> int:
    """The bytes that this process has read from files."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{os.getpid()}/io").read_text().splitlines())
    return int(fields["rchar"])
