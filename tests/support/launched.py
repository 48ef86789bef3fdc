"""Trainings in several processes through the command line: recipes of the same step, started by orpo or another launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from support.metric_lines import metric_lines
from support.tiny import save_tiny_model, write_pairs

FAULTS = Path(__file__).parent / "rank_faults"
ORPO = ("-m", "orpo_cli")
PAIRS_PER_STEP = 8
ROUNDED = ("rewards/margins", "log_odds_chosen")  # small differences of log-probabilities
UNEQUAL = ("kind", "time", "elapsed", "epoch", "memory_gb", "tokens_per_second")


def write_inputs(folder: Path) -> Path:
    """A tiny model, and the pairs of `recipe.yaml`."""
    save_tiny_model(folder / "model")
    write_pairs(folder / "train.jsonl", 21)
    write_pairs(folder / "heldout.jsonl", 7, start=100)
    return folder


def write_rank_recipe(
    folder: Path, inputs: Path, processes: int, launch: dict[str, Any] | None = None, **training: Any
) -> Path:
    """A recipe of the same step for any number of processes."""
    recipe = {
        "model": {"model_name_or_path": str(inputs / "model")},
        "dataset": {
            "train": {"path": str(inputs / "train.jsonl")},
            "eval": {"path": str(inputs / "heldout.jsonl")},
            "max_prompt_length": 96,
        },
        "lora": {"r": 4, "lora_alpha": 8},
        "training": {
            "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": PAIRS_PER_STEP // 2 // processes,
            "max_length": 192, "learning_rate": 1.0e-3, "warmup_steps": 0, "save_strategy": "steps", "save_steps": 2,
            "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3, "gradient_checkpointing": False, "use_cpu": True,
            "optim": "adamw_torch", **training,
        },
        "engine": {"max_tokens_per_microbatch": 512},
        "launch": {"num_processes": processes, **(launch or {})},
        "output_dir": "run",
    }  # fmt: skip
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Variables of a command: one thread for each process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "ORPO_PAIR_CACHE": "0", **variables}


def train(
    folder: Path, *options: str, launcher: tuple[str, ...] = ORPO, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`orpo train` in ``folder``, by itself or by another launcher."""
    return subprocess.run(
        [sys.executable, *launcher, "train", "recipe.yaml", *options],
        cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@contextmanager
def training(folder: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`orpo train` in ``folder``, running; its output goes to files. It ends with the context, and so do its ranks."""
    with (folder / "stdout").open("w") as output, (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *ORPO, "train", "recipe.yaml", *options],
            cwd=folder, env=environment(**variables), stdout=output, stderr=errors, text=True,
        )  # fmt: skip
    known: list[psutil.Process] = []
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            known += psutil.Process(process.pid).children(recursive=True)
        for each in known:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.kill()
        process.wait()


def ranks_of(parent: int) -> dict[int, psutil.Process]:
    """The processes of the ranks that a command has started."""
    return {int(each.environ()["RANK"]): each for each in psutil.Process(parent).children() if "RANK" in each.environ()}


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until a step is logged."""
    deadline = time.monotonic() + seconds
    while last_step(folder / "run") < step:
        assert process.poll() is None, (folder / "stderr").read_text()
        assert time.monotonic() < deadline, (folder / "stderr").read_text()
        time.sleep(0.05)


def last_step(run: Path) -> int:
    """The last step in metrics.jsonl; 0 without one."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until processes have ended. Raises AssertionError where one is left."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without events."""
    return metric_lines(run)


def attempts(run: Path) -> list[dict[str, Any]]:
    """The attempts in run.json."""
    found: list[dict[str, Any]] = json.loads((run / "run.json").read_text())["attempts"]
    return found


def assert_same_training(run: Path, expected: Path, *, relative: float = 1e-6) -> None:
    """Every line of metrics, and the weights of the result, equal up to rounding; ``relative`` 0: the same bits."""
    lines, wanted = metrics(run), metrics(expected)
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            if name in UNEQUAL or "runtime" in name or "per_second" in name:
                continue
            absolute = 1e-6 if name.removeprefix("eval_") in ROUNDED else 1e-8
            allowed = pytest.approx(value, rel=relative, abs=absolute) if relative else value
            assert line[name] == allowed, f"step {line['step']}: {name}"
    result = "adapter/adapter_model.safetensors" if (expected / "adapter").exists() else "model/model.safetensors"
    weights, other_weights = (load_file(each / result) for each in (run, expected))
    assert weights.keys() == other_weights.keys()
    for name, weight in weights.items():
        assert (weight - other_weights[name]).abs().max() <= relative, name


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
