"""SIGKILL at any moment of a training: `--resume auto` finishes it with the bytes of an undisturbed run."""

from __future__ import annotations

import random

import pytest
from support.faults.fork_server import Command, ForkServer
from support.faults.outcome import Outcome
from support.faults.prepared_runs import KINDS, RESUME, TRAIN, Operation, PreparedRuns, kill_fault, last_lines, state_of

# Kills of each kind of training. "random": at any time; the others: at file operations, every second one a moment later.
GROUPS = {
    "creation": 12,
    "random": 16,
    "checkpoint": 22,
    "run.json": 10,
    "resume": 14,
    "going back": 6,
    "result and card": 8,
}
BACK = (*TRAIN, "--resume", "run/checkpoints/checkpoint-2")
IN_SHORT_SELECTION = {
    ("lora", "creation", 7),
    ("lora", "checkpoint", 5),
    ("lora", "run.json", 3),
    ("lora", "resume", 9),
}
IN_SHORT_SELECTION |= {("full", "checkpoint", 13), ("lora", "random", 4)}
CASES = [
    pytest.param(
        kind, group, number, id=f"{kind}-{group.replace(' ', '-')}-{number}", marks=[] if short else pytest.mark.slow
    )
    for kind in KINDS
    for group, count in GROUPS.items()
    for number in range(count)
    for short in [(kind, group, number) in IN_SHORT_SELECTION]
]


def operations_of(group: str, operations: list[Operation]) -> list[Operation]:
    """The file operations that a group of kills is about."""
    if group == "resume":
        return operations
    if group == "going back":
        return [
            each
            for each in operations
            if "abandoned" in each.path or ("checkpoint-" in each.path and each.name == "os.rename")
        ]
    begun = next(number for number, each in enumerate(operations) if "data_report" in each.path)
    saved = max(number for number, each in enumerate(operations) if "checkpoint" in each.path)
    match group:
        case "creation":
            return operations[: begun + 3]
        case "checkpoint":
            return [each for each in operations if "checkpoint-" in each.path]
        case "run.json":
            return [each for each in operations if "run.json" in each.path]
        case _:
            return operations[saved + 1 :]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "group", "number"), CASES)
def test_a_killed_training_is_resumed_to_the_same_bytes(kind, group, number, server, runs, judge):
    outcome = Outcome(f"SIGKILL, {group}", f"{kind} {number}")
    draw, normal = random.Random(f"{kind} {group} {number}"), runs.undisturbed(kind)
    resumed = group in ("resume", "going back")
    resume = BACK if group == "going back" else RESUME
    folder = runs.folder(f"kill-{kind}-{group}-{number}", kind, runs.interrupted(kind) if resumed else None)
    command = Command(resume if resumed else TRAIN, folder)
    if group == "random":
        seconds = (number + draw.random()) / GROUPS[group] * normal.seconds
        ended, outcome.command = (
            server.run_killed_after(command, seconds),
            f"{' '.join(TRAIN)}, killed after {seconds:.2f} s",
        )
    else:
        operations = operations_of(group, runs.resume_operations(kind, resume) if resumed else normal.operations)
        operation = operations[number * len(operations) // GROUPS[group]]
        delay = draw.uniform(0.0002, 0.003) if number % 2 else 0.0
        command.fault = kill_fault(folder, operation, delay)
        ended = server.run(command)
        outcome.command = (
            f"{' '.join(command.arguments)}, killed {delay * 1000:.1f} ms after {operation.name} {operation.path}"
        )
        late = bool(delay) and group == "result and card"  # the command may end before the kill
        outcome.expect(ended.code == -9 or late, f"not killed: {last_lines(ended.said())}")
    outcome.exit_code, outcome.said, outcome.state = ended.code, ended.said(), state_of(folder / "run")
    outcome.expect(ended.code in (-9, 0), f"ended with {ended.code}: {last_lines(ended.said())}")
    runs.finish(outcome, folder, kind)
    judge(outcome)


def test_a_child_of_the_fork_server_trains_as_a_command_of_a_shell(
    server: ForkServer, runs: PreparedRuns, orpo
) -> None:
    """Otherwise the figures of the campaigns would say nothing about `orpo`."""
    import os

    folder = runs.folder("shell", "lora")
    done = orpo(*TRAIN, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    outcome = Outcome("shell", "lora")
    runs.compare(outcome, server.run(Command(RESUME, folder)), folder, "lora")
    assert outcome.identical, outcome.explanation()
