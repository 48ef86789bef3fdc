"""Several `orpo train` of one run at the same time: exactly one trains, and the others say why they do not."""

from __future__ import annotations

import random

import pytest
from support.faults.fork_server import Command, together
from support.faults.outcome import Outcome
from support.faults.prepared_runs import RESUME, TRAIN, last_lines, state_of

COUNTS = {"new run": 12, "new run, --resume auto": 16, "killed run, --resume auto": 34}
SHORT = {("new run", 0), ("killed run, --resume auto", 0)}
CASES = [
    pytest.param(
        group,
        number,
        id=f"{group.replace(', --', ' ').replace(' ', '-')}-{number}",
        marks=[] if (group, number) in SHORT else pytest.mark.slow,
    )
    for group, count in COUNTS.items()
    for number in range(count)
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("group", "number"), CASES)
def test_exactly_one_of_several_processes_trains(group, number, server, runs, judge):
    outcome = Outcome(f"race, {group}", str(number))
    draw, processes = random.Random(f"{group} {number}"), 2 + number % 3 // 2
    folder = runs.folder(
        f"race-{group.replace(' ', '-')}-{number}", "lora", runs.interrupted("lora") if "killed" in group else None
    )
    arguments, begin = (RESUME if "resume" in group else TRAIN), together()
    delays = [0.0, *(draw.choice([0.0, draw.uniform(0, 0.02), draw.uniform(0, 0.6)]) for _ in range(processes - 1))]
    started = [server.start(Command(arguments, folder, start_at=begin + delay)) for delay in delays]
    codes = [process.wait() for process in started]
    trained = [process for process in started if "trained " in process.said()]
    outcome.command = (
        f"{' '.join(arguments)}, {processes} times, after {', '.join(f'{delay:.3f}' for delay in delays)} s"
    )
    outcome.exit_code, outcome.state = max(codes), state_of(folder / "run")
    outcome.said = "\n".join(
        f"process {process.pid}, exit code {process.code}: {last_lines(process.said())}" for process in started
    )
    outcome.expect(len(trained) == 1, f"{len(trained)} processes trained")
    for process in started:
        if process not in trained:
            refused = process.code == 2 and any(
                str(each.pid) in process.said() for each in started if each is not process
            )
            finished = process.code == (0 if "resume" in group else 2) and "finished" in process.said()
            outcome.expect(
                refused or finished, f"the refusal does not name the other process: {last_lines(process.said())}"
            )
            outcome.expect("Traceback" not in process.said(), "a traceback")
    if trained:
        runs.compare(outcome, trained[0], folder, "lora")
    judge(outcome)
