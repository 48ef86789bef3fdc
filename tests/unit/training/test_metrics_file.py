"""metrics.jsonl: a full disk loses no line, and a resumed run has each line once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.file_size_limit import file_size_limit
from support.json_lines import write_json_lines

from orpo_cli.errors import MachineError
from orpo_cli.training.metrics_file import MetricsFile, restore_metrics


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_that_the_disk_has_no_space_for_are_written_later(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert file.append({"step": 1}) is None
    with file_size_limit(20):
        problem = file.append({"step": 2, "loss": 1.5})
        assert problem is not None
        assert "maximum file size" in problem
        assert file.append({"step": 3}) is None  # said once
        assert read(file.path) == [{"step": 1}]
        with pytest.raises(MachineError, match=r"metrics\.jsonl"):
            file.finish()
    file.finish()
    assert read(file.path) == [{"step": 1}, {"step": 2, "loss": 1.5}, {"step": 3}]


def test_a_resumed_run_has_the_lines_of_its_checkpoint_once(tmp_path: Path) -> None:
    """Line 3 is damaged, 4 was lost, 5 is computed again, 6 was cut off; the checkpoint has all up to 4."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 1.0, "tokens_per_second": 9}\n{"step": 2, "eval_loss": 7}\n{"step": 3, "lo\n{"step": 5, "loss": 5}\n{"step": 6'
    )
    history = [{"loss": float(step), "epoch": 0.5, "note": "x", "step": step} for step in (1, 2, 3, 4, 5)]
    assert restore_metrics(path, 4, [*history, {"eval_loss": 7, "step": 2}, {"train_runtime": 1.0, "step": 4}]) == 1
    damaged = '{"step": 3, "lo\n'
    assert damaged in path.read_text()
    path.write_text(path.read_text().replace(damaged, ""))
    assert read(path) == [
        {"step": 1, "loss": 1.0, "tokens_per_second": 9},
        {"step": 2, "eval_loss": 7},
        *({"step": step, "loss": float(step), "epoch": 0.5} for step in (2, 3, 4)),
    ]


def test_events_of_later_steps_are_dropped_and_texts_of_lines_are_restored(tmp_path: Path) -> None:
    """Attempt 1 was killed in step 4, after the checkpoint of step 2; the disk had no space for the line of step 2."""
    path = tmp_path / "metrics.jsonl"
    head = {"kind": "train", "time": "2026-01-01T00:00:00.000Z", "elapsed": 2.0, "step": 2, "pairs": 8, "tokens": 80}
    lines: list[dict[str, object]] = [
        {"kind": "event", "event": "attempt", "attempt": 1, "step": 0},
        {"kind": "eval", "step": 0, "eval_loss": 3.0},
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "event", "event": "checkpoint", "path": "checkpoints/checkpoint-2", "step": 2},
        {"kind": "train", "step": 3, "loss": 1.0},
        {"kind": "event", "event": "oom", "message": "less memory", "step": 3},
    ]
    write_json_lines(path, lines)
    assert restore_metrics(path, 2, [{"step": 1, "loss": 2.0}, {**head, "loss": 1.5}]) == 0
    assert read(path) == [*lines[:4], {**head, "loss": 1.5}]


def test_a_file_that_is_gone_is_restored_and_none_is_made_without_lines(tmp_path: Path) -> None:
    restore_metrics(tmp_path / "metrics.jsonl", 4)
    assert not (tmp_path / "metrics.jsonl").exists()
    restore_metrics(tmp_path / "metrics.jsonl", 4, [{"loss": 1.0, "step": 1}])
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
