"""SIGINT, SIGTERM and SIGHUP in every phase of a training, a merge, an export and a push: exit code 130, and nothing half-written."""

from __future__ import annotations

import shutil
import signal

import pytest
from support.faults.fork_server import Command, ForkServer
from support.faults.outcome import Outcome
from support.faults.prepared_runs import TRAIN, last_lines, leftovers, state_of

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A function of each phase, and which of its calls: the signal comes when it is called.
TRAINING = {
    "data preparation": ("orpo_cli.data.source_reader:SourceReader.read", 1),
    "model load": ("orpo_cli.model.base_model:load_base", 1),
    "first comparison": ("orpo_cli.training.engine.parity_check:compare_paths", 1),
    "step": ("orpo_cli.training.packed_trainer:PackedTrainer.training_step", 3),
    "evaluation": ("orpo_cli.training.trl_trainer:PairTrainer._score_batch", 2),
    "checkpoint": ("torch.serialization:save", 2),
    "final save": ("orpo_cli.model.save:complete_generation_config", 1),
    "card": ("orpo_cli.card.model_card:write_card", 1),
}
AFTERWARDS = {
    "merge": (("merge", "run"), "merged", ("orpo_cli.merging.verification:verify_merge", 1)),
    "export": (("export", "run"), "export", ("orpo_cli.exporting.checks:check_folder", 1)),
}
SHORT = {("model load", "SIGTERM"), ("checkpoint", "SIGINT"), ("step", "SIGHUP"), ("merge", "SIGTERM")}


def cases(phases):
    return [
        pytest.param(
            phase,
            number,
            id=f"{phase.replace(' ', '-')}-{number.name}",
            marks=[] if (phase, number.name) in SHORT else pytest.mark.slow,
        )
        for phase in phases
        for number in SIGNALS
    ]


def signals(*sent: tuple[tuple[str, int], int]) -> dict:
    return {
        "kind": "signals", "folder": "", "signals": [{"function": function, "call": call, "number": int(number)} for (function, call), number in sent],
    }  # fmt: skip


def note_interruption(outcome: Outcome, done, number: int) -> None:
    outcome.exit_code, outcome.said = done.code, done.said()
    outcome.expect(done.code == 130, f"exit code {done.code}: {last_lines(done.said())}")
    outcome.expect("Traceback" not in done.said(), "a traceback")
    outcome.expect("interrupted" in done.said(), "the message does not say that the command was interrupted")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("phase", "number"), cases(TRAINING))
def test_a_signal_in_a_training_leaves_a_run_that_is_resumed_to_the_same_bytes(phase, number, server, runs, judge):
    outcome = Outcome(
        "signals in a training", f"{number.name}, {phase}", f"{' '.join(TRAIN)}, {number.name} in the {phase}"
    )
    folder = runs.folder(f"signal-{phase.replace(' ', '-')}-{number.name}", "lora")
    done = server.run(Command(TRAIN, folder, fault=signals((TRAINING[phase], number))))
    note_interruption(outcome, done, number)
    outcome.state = state_of(folder / "run")
    left = leftovers(folder)
    outcome.expect(not left, f"left behind: {', '.join(left)}")
    runs.finish(outcome, folder, "lora")
    judge(outcome)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_while_a_checkpoint_is_saved(number, server, runs, judge):
    """SIGINT stops at once; SIGTERM and SIGHUP, which schedulers send several times, do not cut the save short."""
    outcome = Outcome(
        "signals in a training", f"second {number.name} in a checkpoint", f"{' '.join(TRAIN)}, {number.name} twice"
    )
    folder = runs.folder(f"signal-twice-{number.name}", "lora")
    done = server.run(
        Command(TRAIN, folder, fault=signals((TRAINING["step"], number), (("torch.serialization:save", 6), number)))
    )
    note_interruption(outcome, done, number)
    outcome.state = state_of(folder / "run")
    saved = (folder / "run" / "checkpoints" / "checkpoint-3").is_dir()
    outcome.expect(saved == (number != signal.SIGINT), f"checkpoint-3 saved: {saved}")
    runs.finish(outcome, folder, "lora")
    judge(outcome)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number, server, runs, judge):
    """As SIGHUP under nohup."""
    outcome = Outcome("signals in a training", f"ignored {number.name}", f"{' '.join(TRAIN)}, {number.name} ignored")
    folder = runs.folder(f"signal-ignored-{number.name}", "lora")
    command = Command(
        TRAIN,
        folder,
        fault=signals((TRAINING["model load"], number), (TRAINING["step"], number)),
        ignored_signals=[number],
    )
    done = server.run(command)
    outcome.exit_code, outcome.said, outcome.state = done.code, done.said(), state_of(folder / "run")
    runs.compare(outcome, done, folder, "lora")
    judge(outcome)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("phase", "number"), cases(AFTERWARDS))
def test_a_signal_in_a_merge_or_an_export_leaves_no_output(phase, number, server, runs, judge):
    arguments, output, function = AFTERWARDS[phase]
    outcome = Outcome(
        "signals in merge, export and push", f"{number.name}, {phase}", f"{' '.join(arguments)}, {number.name}"
    )
    folder = finished_run(runs, f"signal-{phase}-{number.name}")
    done = server.run(Command(arguments, folder, fault=signals((function, number))))
    note_interruption(outcome, done, number)
    outcome.state = state_of(folder / "run")
    kept = [path for path in (folder / "run" / output).rglob("*") if path.is_file()]
    outcome.expect(not kept, f"an output is there: {kept}")
    outcome.expect(not leftovers(folder), f"left behind: {leftovers(folder)}")
    again = server.run(Command(arguments, folder))
    outcome.finished = again.code == 0
    outcome.expect(again.code == 0, f"repeated, it ended with {again.code}: {last_lines(again.said())}")
    judge(outcome)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_push_leaves_a_push_that_is_continued(number, runs, judge, tmp_path):
    from support.loopback_hub import LoopbackHub

    arguments = ("push-to-hub", "run", "me/tiny")
    outcome = Outcome(
        "signals in merge, export and push", f"{number.name}, push", f"{' '.join(arguments)}, {number.name}"
    )
    folder = finished_run(runs, f"signal-push-{number.name}")
    with LoopbackHub() as hub, ForkServer(tmp_path / "server", hub.environment()) as server:
        done = server.run(
            Command(arguments, folder, fault=signals((("huggingface_hub.hf_api:HfApi.preupload_lfs_files", 1), number)))
        )
        note_interruption(outcome, done, number)
        outcome.state = (
            f"files in the repository: {sorted(hub.repos['me/tiny'].files()) if hub.repos else 'no repository'}"
        )
        outcome.expect(not hub.repos or "adapter_model.safetensors" not in hub.repos["me/tiny"].files(), "a half push")
        again = server.run(Command(arguments, folder))
        outcome.finished = again.code == 0 and "adapter_model.safetensors" in hub.repos["me/tiny"].files()
        outcome.expect(bool(outcome.finished), f"repeated, it ended with {again.code}: {last_lines(again.said())}")
    judge(outcome)


def finished_run(runs, name):
    """A folder with a finished run, whose base model is the one of all cases."""
    runs.undisturbed("lora")
    folder = runs.folder(name, "lora")
    shutil.copytree(runs.root / "cases" / "undisturbed-lora" / "run", folder / "run")
    return folder
