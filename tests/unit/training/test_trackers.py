"""Trackers that upload checkpoints: a training waits for these until a checkpoint has its name."""

from __future__ import annotations

import pytest

from orpo_cli.training.train import trackers_read_checkpoints


@pytest.mark.parametrize(
    ("report_to", "log_model", "expected"),
    [
        ([], "", False),
        (["tensorboard", "wandb"], "", False),
        (["wandb"], "checkpoint", True),
        (["tensorboard", "mlflow"], "", True),
    ],
)
def test_a_tracker_that_may_upload_checkpoints_is_recognized(
    report_to: list[str], log_model: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", log_model)
    assert trackers_read_checkpoints(report_to) is expected
