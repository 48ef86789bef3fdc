"""A disk that becomes full at any write of a training: exit code 3, and the run is finished to the same bytes after room is made."""

from __future__ import annotations

import shutil
from dataclasses import astuple

import pytest
from support.faults.fork_server import Command
from support.faults.outcome import Outcome
from support.faults.prepared_runs import KINDS, RESUME, TRAIN, last_lines, state_of

SIZE = 32 * 2**20
POINTS = 14  # of each kind of training: the disk becomes full at a file operation, with 0, 1 or some blocks left
LEFT = (0, 4096, 20_000)
SHORT = {("lora", 6), ("full", 9)}
CASES = [
    pytest.param(kind, number, id=f"{kind}-{number}", marks=[] if (kind, number) in SHORT else pytest.mark.slow)
    for kind in KINDS
    for number in range(POINTS)
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "number"), CASES)
def test_a_full_disk_ends_a_training_that_goes_on_after_room_is_made(kind, number, server, runs, judge):
    outcome = Outcome("full disk", f"{kind} {number}")
    operations = runs.undisturbed(kind).operations
    operation, left = operations[number * len(operations) // POINTS], LEFT[number % len(LEFT)]
    folder = runs.folder(f"disk-{kind}-{number}", kind)
    error = server.request("mount", folder=str(folder), size=SIZE, remount=False)["error"]
    if error is not None:
        pytest.skip(f"no file system of a given size can be mounted: {error}")
    try:
        seen = server.view(folder)
        (seen / "recipe.yaml").write_text(runs.recipe(kind))
        fault = {
            "kind": "fill",
            "folder": str(folder),
            "wanted": astuple(operation),
            "ballast": str(folder / "ballast"),
            "left": left,
        }
        done = server.run(Command(TRAIN, folder, fault=fault))
        outcome.command = f"{' '.join(TRAIN)}, {left} bytes left before {operation.name} {operation.path}"
        outcome.exit_code, outcome.said, outcome.state = done.code, done.said(), state_of(seen / "run")
        outcome.expect((seen / "ballast").exists(), "the disk was not filled")
        outcome.expect(done.code in (0, 3), f"exit code {done.code}: {last_lines(done.said())}")
        outcome.expect("Traceback" not in done.said(), "a traceback")
        (seen / "ballast").unlink(missing_ok=True)
        resumed = server.run(Command(RESUME, folder))
        runs.compare(outcome, resumed, seen, kind)
    finally:
        server.request("unmount", folder=str(folder))
        shutil.rmtree(folder, ignore_errors=True)
    judge(outcome)
