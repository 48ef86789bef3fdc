"""benchmarks/gpu.sh: its report comes out whatever happens to its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_report import join, markdown

ROOT = Path(__file__).parents[3]


def start(out: Path, **variables: str) -> subprocess.Popen[bytes]:
    command = ["bash", "benchmarks/gpu.sh", "--out", str(out)]
    environment = {**os.environ, "GPU_TINY": "1", "PYTHON": sys.executable, **variables}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)


def statuses(out: Path) -> dict[str, str]:
    document: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    return {each["part"]: each["status"] for each in document["parts"]}


def test_parts_without_time_are_skipped(tmp_path: Path) -> None:
    assert start(tmp_path, GPU_BUDGET="20").wait(60) == 0
    assert set(statuses(tmp_path).values()) == {"skipped"}
    assert "| qlora-short | skipped |" in (tmp_path / "gpu.md").read_text()


def test_a_folder_that_is_no_model_is_refused_before_the_first_part(tmp_path: Path) -> None:
    assert start(tmp_path, ORPO_BENCH_MODEL=str(tmp_path)).wait(60) == 2
    assert not (tmp_path / "gpu.json").exists()


def test_a_part_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    python = tmp_path / "python"  # fails for every part, and is Python for the report
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *gpu_report*|-c*) exec {sys.executable} "$@";; *full*) sleep 30;; *) exit 7;; esac\n'
    )
    python.chmod(0o755)
    out = tmp_path / "out"
    running = start(out, PYTHON=str(python))
    deadline = time.monotonic() + 60
    while not (out / "parts.jsonl").exists() or '"full-1b"' not in (out / "parts.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(30) == 143
    found = statuses(out)
    assert found.pop("full-1b") == "killed"
    assert set(found.values()) == {"failed with 7"}
    assert found.keys() == {"equality", "tests", "qlora-short", "lora-short"}


def test_the_report_joins_what_a_killed_run_has_written(tmp_path: Path) -> None:
    (tmp_path / "tests.txt").write_text(
        "[gw0] [  3%] PASSED tests/gpu/test_a.py::test_one[llama] \n"
        "[gw1] [  7%] FAILED tests/gpu/test_a.py::test_two \n"
        "tests/gpu/test_a.py::test_three "
    )
    figures = {
        "step_seconds": [0.4, 0.2, 0.3], "peak_gb": 4.0, "held_gb": 6.0, "device_gb": 12.0, "planned_gb": 11.0,
        "loss": [2.0, 1.0],
    }  # fmt: skip
    (tmp_path / "training.jsonl").write_text(
        json.dumps({"case": "qlora-short", "side": "ours", **figures}) + '\n{"case": "qlora-short", "si'
    )
    (tmp_path / "equality.jsonl").write_text(
        json.dumps({"case": "QLoRA", "strategy": "fsdp", "status": "failed", "seconds": 9.0, "loss_difference": 0.5})
    )
    found = join(tmp_path)
    assert found["tests"] == {
        "passed": ["tests/gpu/test_a.py::test_one[llama]"],
        "failed": ["tests/gpu/test_a.py::test_two"],
    }
    text = markdown(found)
    assert "| qlora-short |  | 0.300 |  |  | 4.0 |  |" in text
    assert "| qlora-short | 11.0 | 10.0 | 12.0 | 0.92 |" in text
    assert "| QLoRA | fsdp | failed | 5e-01 |" in text
    assert "- failed: `tests/gpu/test_a.py::test_two`" in text
