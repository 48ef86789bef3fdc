"""Torn, damaged and missing files of a killed run: the run is finished to the same bytes, or refused with the name of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.faults.fork_server import Command
from support.faults.outcome import Outcome
from support.faults.prepared_runs import RESUME, last_lines, state_of

LAST = "checkpoints/checkpoint-6"
CHECKPOINT_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "tokenizer.json",
    "tokenizer_config.json", "trainer_state.json", "manifest.json",
)  # fmt: skip
# What a run is resumed with. All other files of a run are records: a damaged record never stops it.
NEEDED = ("plan.json", "run.json")
RECORDS = ("recipe.yaml", "data_report.json", "metrics.jsonl", "logs/attempt-1.log")
DAMAGES = ("half", "empty", "missing", "flipped byte", "{}", "binary")
SHORT = {
    (f"{LAST}/optimizer.pt", "half"),
    (f"{LAST}/adapter_model.safetensors", "flipped byte"),
    ("run.json", "half"),
    ("metrics.jsonl", "half"),
}
CASES = [
    pytest.param(
        name,
        damage,
        id=f"{name.replace('/', '-')}-{damage.replace(' ', '-')}",
        marks=[] if (name, damage) in SHORT else pytest.mark.slow,
    )
    for name in (*(f"{LAST}/{file}" for file in CHECKPOINT_FILES), *NEEDED, *RECORDS)
    for damage in DAMAGES
]


def damage_file(path: Path, damage: str) -> None:
    """Damage a file as a crash, a full disk, a bad disk or another program does."""
    data = path.read_bytes()
    middle = len(data) // 2
    match damage:
        case "half":
            path.write_bytes(data[:middle])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "flipped byte":
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :])
        case "{}":
            path.write_bytes(b"{}")
        case "binary":
            path.write_bytes(hashlib.sha256(data).digest() * (len(data) // 32 + 1))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_file_is_left_out_or_named(name, damage, server, runs, judge):
    folder = runs.folder(f"torn-{name.replace('/', '-')}-{damage.replace(' ', '-')}", "lora", runs.interrupted("lora"))
    of_checkpoint = name.startswith(LAST)
    outcome = Outcome(
        "damaged files of a checkpoint" if of_checkpoint else "damaged files of a run", f"{name}: {damage}"
    )
    path = folder / "run" / name
    if not path.exists():
        pytest.skip(f"a run has no {name}")
    damage_file(path, damage)
    before = {each: each.read_bytes() for each in (folder / "run" / "checkpoints").rglob("*") if each.is_file()}
    done = server.run(Command(RESUME, folder))
    outcome.command, outcome.exit_code, outcome.said = " ".join(RESUME), done.code, done.said()
    outcome.state = state_of(folder / "run")
    if name in NEEDED and done.code != 0:
        outcome.expect(done.code in (2, 3), f"exit code {done.code}")
        outcome.expect(path.name in done.said(), f"{path.name} is not named")
        outcome.expect("Traceback" not in done.said(), "a traceback")
        after = {each: each.read_bytes() for each in before if each.exists()}
        outcome.expect(after == before, "the checkpoints were changed")
    else:
        runs.compare(outcome, done, folder, "lora", lost_lines=name == "metrics.jsonl")
    if of_checkpoint:
        outcome.expect("checkpoint-6" in done.said(), "the damaged checkpoint is not named")
        outcome.expect(
            "resuming from" in done.said() and "checkpoint-4" in done.said(),
            f"not from checkpoint-4: {last_lines(done.said(), 1)}",
        )
    judge(outcome)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("damage", ["half", pytest.param("missing", marks=pytest.mark.slow)])
def test_a_run_without_an_undamaged_checkpoint_starts_over_and_keeps_other_files(damage, server, runs, judge):
    folder = runs.folder(f"torn-all-{damage}", "lora", runs.interrupted("lora"))
    outcome = Outcome("damaged files of a checkpoint", f"all checkpoints: {damage}", " ".join(RESUME))
    for checkpoint in (folder / "run" / "checkpoints").glob("checkpoint-*"):
        damage_file(checkpoint / "optimizer.pt", damage)
    (folder / "run" / "notes.txt").write_text("a file of the user")
    done = server.run(Command(RESUME, folder))
    outcome.exit_code, outcome.said, outcome.state = done.code, done.said(), state_of(folder / "run")
    runs.compare(outcome, done, folder, "lora")
    outcome.expect((folder / "run" / "notes.txt").exists(), "a file of the user was removed")
    judge(outcome)
