"""Runs for fault campaigns: inputs of LoRA, full and 4-bit trainings, their undisturbed runs, and copies that were killed.

All cases of a kind train the same eight steps with a checkpoint after each second one, so every finished run must have the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.faults.fork_server import Command, ForkServer, Process
from support.faults.outcome import Outcome

STEPS = 8
KINDS = ("lora", "full", "4bit")
TRAIN = ("train", "recipe.yaml")
RESUME = (*TRAIN, "--resume", "auto")
TRAINING = {
    "max_steps": STEPS, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 192, "learning_rate": 1.0e-3,
    "warmup_steps": 0, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 3, "logging_steps": 1, "eval_strategy": "steps",
    "eval_steps": 4, "gradient_checkpointing": False,
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """File operation of a run: its path is relative to the folder of the case, ``occurrence`` counts equal ones from 1."""

    name: str
    path: str
    occurrence: int


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run: the digests of its weights, its losses, its file operations, and the seconds that it took."""

    weights: dict[str, str]
    losses: list[tuple[int, Any, Any]]
    operations: list[Operation]
    seconds: float


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of each file of weights of the result; empty without a result."""
    files = [*(run / "adapter").glob("*.safetensors"), *(run / "model").glob("*.safetensors")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def losses(run: Path, *, damaged: bool = False) -> list[tuple[int, Any, Any]]:
    """Step, loss and evaluation loss of each line of metrics.jsonl that is no event. ``damaged``: without lines that are not JSON."""
    found, path = [], run / "metrics.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            if not damaged:
                raise
            continue
        if record.get("kind") == "event":
            continue
        found.append((record["step"], record.get("loss"), record.get("eval_loss")))
    return found


def state_of(run: Path) -> str:
    """What is in the directory of a run, in a few words."""
    if not run.is_dir():
        return "no run directory"
    try:
        status = json.loads((run / "run.json").read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        status = f"unreadable run.json ({type(error).__name__})"
    names = sorted(path.name for path in run.iterdir())
    saved = sorted(path.name for path in (run / "checkpoints").glob("*")) if (run / "checkpoints").is_dir() else []
    return f"{status}; {' '.join(names)}; checkpoints: {' '.join(saved) or 'none'}"


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a finished run must not leave: below ``folder``, and beside the run."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob(".*")]
    return [name for name in names if "partial" in name or "/" not in name]


class PreparedRuns:
    """Inputs and templates below ``root``, made when a case needs them first."""

    def __init__(self, server: ForkServer, root: Path) -> None:
        self.server = server
        self.root = root
        self.inputs = root / "inputs"
        self.undisturbed = cache(self._undisturbed)
        self.interrupted = cache(self._interrupted)
        self.resume_operations = cache(self._resume_operations)
        self.prepare_inputs = cache(self._prepare_inputs)

    def _prepare_inputs(self) -> None:
        from support.tiny import save_tiny_model, write_pairs

        save_tiny_model(self.inputs / "model")
        write_pairs(self.inputs / "train.jsonl", 24)
        write_pairs(self.inputs / "heldout.jsonl", 8, start=100)

    def recipe(self, kind: str, **training: Any) -> str:
        """The recipe of a kind of training, whose run is in the folder ``run`` beside it."""
        sections: dict[str, Any] = {
            "model": {"model_name_or_path": str(self.inputs / "model")},
            "dataset": {
                "train": {"path": str(self.inputs / "train.jsonl")},
                "eval": {"path": str(self.inputs / "heldout.jsonl")},
                "max_prompt_length": 96,
            },
            "training": {**TRAINING, **training},
            "engine": {"max_tokens_per_microbatch": 512},
            "output_dir": "run",
        }
        if kind != "full":
            sections["lora"] = {"r": 4, "lora_alpha": 8}
        if kind == "4bit":
            sections["quantization"] = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}
        return str(yaml.safe_dump(sections))

    def folder(self, name: str, kind: str, run: Path | None = None, **training: Any) -> Path:
        """A new folder with the recipe of a case, and a copy of ``run``."""
        self.prepare_inputs()
        folder = self.root / "cases" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(self.recipe(kind, **training))
        if run is not None:
            shutil.copytree(run, folder / "run", symlinks=True)
        return folder

    def _undisturbed(self, kind: str) -> Undisturbed:
        folder = self.folder(f"undisturbed-{kind}", kind)
        trace, began = self.root / f"operations-{kind}", time.monotonic()
        done = self.server.run(
            Command(TRAIN, folder, fault={"kind": "record", "folder": str(folder), "path": str(trace)})
        )
        assert done.code == 0, done.said()
        seconds = time.monotonic() - began
        return Undisturbed(weights(folder / "run"), losses(folder / "run"), read_operations(trace), seconds)

    def _interrupted(self, kind: str) -> Path:
        """A run that was killed in step 7: its checkpoints are those of steps 2, 4 and 6."""
        operations = self.undisturbed(kind).operations
        begun = next(number for number, each in enumerate(operations) if f"checkpoint-{STEPS}" in each.path)
        last = [each for each in operations[:begun] if each.path == "run/metrics.jsonl"][-1]
        folder = self.folder(f"interrupted-{kind}", kind)
        killed = self.server.run(Command(TRAIN, folder, fault=kill_fault(folder, last)))
        assert killed.code == -9, killed.said()
        return folder / "run"

    def _resume_operations(self, kind: str, command: tuple[str, ...] = RESUME) -> list[Operation]:
        """The operations of a resumed run up to its first new checkpoint."""
        name = f"{kind}-{Path(command[-1]).name}"
        folder, trace = self.folder(f"resumed-{name}", kind, self.interrupted(kind)), self.root / f"resume-{name}"
        done = self.server.run(
            Command(command, folder, fault={"kind": "record", "folder": str(folder), "path": str(trace)})
        )
        assert done.code == 0, done.said()
        operations = read_operations(trace)
        begun = (number for number, each in enumerate(operations) if f"checkpoint-{STEPS}" in each.path)
        return operations[: next(begun, len(operations))]

    def finish(self, outcome: Outcome, folder: Path, kind: str) -> Process:
        """`--resume auto` after a fault: it must finish with the weights and losses of the undisturbed run, and leave nothing behind."""
        done = self.server.run(Command(RESUME, folder))
        self.compare(outcome, done, folder, kind)
        return done

    def compare(self, outcome: Outcome, done: Process, folder: Path, kind: str, *, lost_lines: bool = False) -> None:
        """Note in ``outcome`` whether ``done`` has finished the run, and how it differs from the undisturbed one.

        ``lost_lines``: lines of metrics.jsonl up to the checkpoint of step 6 were damaged, and may be missing.
        """
        expected = self.undisturbed(kind)
        outcome.finished = done.code == 0
        outcome.expect(outcome.finished, f"--resume auto ended with {done.code}: {last_lines(done.said())}")
        outcome.expect("Traceback" not in done.said(), "--resume auto printed a traceback")
        if outcome.finished:
            same = weights(folder / "run") == expected.weights
            outcome.expect(same, f"other final weights: {weights(folder / 'run')}")
            found = losses(folder / "run", damaged=lost_lines)
            kept = [each for each in expected.losses if each in found or each[0] > STEPS - 2]
            same_losses = found == (kept if lost_lines else expected.losses)
            outcome.expect(same_losses, f"other losses: {found} instead of {expected.losses}")
            outcome.identical = same and same_losses
            left = leftovers(folder)
            outcome.expect(not left, f"left behind: {', '.join(left)}")
            outcome.expect(state_of(folder / "run").startswith("finished"), f"status: {state_of(folder / 'run')}")
            outcome.expect((folder / "run" / "README.md").is_file(), "no model card")


def kill_fault(folder: Path, operation: Operation, delay: float = 0.0) -> dict[str, Any]:
    """SIGKILL at a file operation."""
    return {"kind": "kill", "folder": str(folder), "wanted": astuple(operation), "delay": delay}


def read_operations(path: Path) -> list[Operation]:
    """The operations that a command has recorded."""
    fields = [line.split("\t") for line in path.read_text().splitlines()]
    return [Operation(name, place, int(occurrence)) for name, place, occurrence in fields]


def last_lines(text: str, count: int = 3) -> str:
    """The end of an output, in one line."""
    return " / ".join(text.strip().splitlines()[-count:])
