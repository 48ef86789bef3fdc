"""The agent of a machine in a thread of a Python program."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from orpo_cli.launch.agent import _torch_launcher_quiet

VARIABLE = "TORCHELASTIC_SIGNALS_TO_HANDLE"


def test_a_launch_in_another_thread_than_the_main_one_ends_without_an_error() -> None:
    """Only the main thread may set handlers of signals."""

    def launch() -> bool:
        with _torch_launcher_quiet():
            return VARIABLE in os.environ

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(launch).result()
    assert VARIABLE not in os.environ
