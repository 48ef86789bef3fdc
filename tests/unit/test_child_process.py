"""A child process reports that it still runs, and gives its whole output."""

from __future__ import annotations

import sys

import pytest

from orpo_cli import child_process


def test_waiting_is_called_while_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "SECONDS_BETWEEN_CALLS", 0.05)
    seconds: list[float] = []
    code = "import sys; print(sys.stdin.read(), flush=True); import time; time.sleep(1); print('end')"
    done = child_process.run_child([sys.executable, "-c", code], text="start", waiting=seconds.append)
    assert (done.returncode, done.stdout) == (0, "start\nend\n")
    assert len(seconds) > 1
    assert seconds == sorted(seconds)
