"""Phases of a training in which a signal arrives, and what has to be true afterwards."""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path

from support.forked_command import ForkedCommand, StopPoint, interrupt_at
from support.tiny import write_recipe

STEPS = 6


@dataclass(frozen=True)
class Phase:
    """A point of a training. ``step``: that of the checkpoint which a signal there leaves, if any."""

    stop: StopPoint
    step: int | None = None
    completes: bool = False  # the run has finished in spite of the signal


PHASES = {
    "recipe": Phase(StopPoint("orpo_cli.workflows.train:load_recipe_reporting")),
    "plan": Phase(StopPoint("orpo_cli.workflows.train:build_plan")),
    "run directory": Phase(StopPoint("orpo_cli.workflows.train:open_run", after=True)),
    "tokenizer": Phase(StopPoint("orpo_cli.model.tokenizer:load_tokenizer")),
    "pairs": Phase(StopPoint("orpo_cli.data.source_reader:SourceReader._truncate_batch")),
    "model": Phase(StopPoint("orpo_cli.model.base_model:load_base", after=True)),
    "trainer": Phase(StopPoint("orpo_cli.training.train:make_trainer")),
    "comparison": Phase(StopPoint("orpo_cli.training.packed_trainer:PackedTrainer._parity_failure"), step=1),
    "step": Phase(StopPoint("orpo_cli.training.packed_trainer:PackedTrainer.training_step", call=3), step=3),
    "evaluation": Phase(StopPoint("orpo_cli.training.trl_trainer:PairTrainer._score_batch"), step=2),
    "checkpoint": Phase(StopPoint("orpo_cli.training.trl_trainer:PairTrainer._save_optimizer_and_scheduler"), step=2),
    "last checkpoint": Phase(
        StopPoint("orpo_cli.training.trl_trainer:PairTrainer._save_optimizer_and_scheduler", call=3), step=STEPS
    ),
    "final save": Phase(StopPoint("orpo_cli.training.train:copy_mode_to_weights"), completes=True),
    "card": Phase(StopPoint("orpo_cli.card.model_card:render_card"), completes=True),
}


def signal_recipe(folder: Path, *, lora: bool = True, **sections: dict[str, object]) -> Path:
    """A recipe with dropout, evaluations and checkpoints, so that a lost random state or evaluation changes the result."""
    training: dict[str, object] = {
        "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": False, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True,
    }  # fmt: skip
    path = write_recipe(folder, estimated=False, steps=STEPS, lora=lora, training=training, **sections)
    if lora:
        path.write_text(path.read_text().replace("lora_alpha: 8", "lora_alpha: 8\n  lora_dropout: 0.1"))
    return path


def train_command(recipe: Path, run: Path, *options: str) -> list[str | Path]:
    return ["train", recipe, "--set", f"output_dir={run}", *options]


def digest(run: Path) -> str:
    """The digest of the trained weights."""
    (weights,) = (path for part in ("adapter", "model") for path in (run / part).glob("*.safetensors"))
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def status(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["status"])


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def resume(recipe: Path, run: Path, folder: Path) -> None:
    """Continue the run to its end."""
    command = ForkedCommand(folder, train_command(recipe, run, "--resume", "auto"))
    assert command.wait() == 0, command.stderr
    assert status(run) == "finished"


def assert_interrupted(code: int, stderr: str, name: str, *words: str) -> None:
    """The command reported the signal in one message, with how to continue."""
    assert code == 130, stderr
    assert any(line.startswith(f"interrupted ({name})") for line in stderr.splitlines()), stderr
    assert "error: " not in stderr
    assert "Traceback" not in stderr, stderr
    for word in words:
        assert word in stderr, stderr


def check_signal(recipe: Path, folder: Path, phase_name: str, number: signal.Signals, expected_digest: str) -> None:
    """Send a signal in a phase of a new run, check what is left, and that the resumed run has the expected weights."""
    run, phase = folder / "run", PHASES[phase_name]
    ended = interrupt_at(folder, train_command(recipe, run), phase.stop, number)
    if phase.completes:
        assert_interrupted(*ended, number.name, "the result is complete")
        assert status(run) == "finished"
        assert (run / "README.md").is_file()
    elif phase.step is None:
        assert_interrupted(*ended, number.name, "same command")
        assert {path.name for path in folder.iterdir()} == {"reached", "continue", "stdout", "stderr"}
        return
    else:
        assert_interrupted(*ended, number.name, f"checkpoint-{phase.step}", "--resume auto", "stopping after this step")
        assert status(run) == "interrupted"
        assert f"checkpoint-{phase.step}" in checkpoints(run)
    resume(recipe, run, folder)
    assert digest(run) == expected_digest
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "eval_loss" in line] == list(range(2, STEPS + 1, 2))
