"""Faults of one rank, for tests: Python imports this file in each process that has its folder in PYTHONPATH.

``ORPO_TEST_FAULT`` is ``RANK KIND``, for example ``1 data``.
"""

import os
import signal
import time

RANK, _, KIND = os.environ.get("ORPO_TEST_FAULT", "").partition(" ")


def fail(*_: object) -> None:
    """Fail as KIND says."""
    from orpo_cli.errors import DataError

    if KIND == "data":
        raise DataError("injected: no pairs", remedy="Remove the fault.")
    if KIND == "bug":
        raise ZeroDivisionError("injected")
    if KIND == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if KIND == "load":  # slowly: the other ranks wait
        time.sleep(600)


if KIND and os.environ.get("RANK") == RANK:
    from orpo_cli.workflows import train_worker

    train_worker.set_up_strategy = fail
