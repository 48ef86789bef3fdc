"""Watch of a rank, or of a trial of a sweep, over its parent: where the parent is killed, nobody else would end it."""

from __future__ import annotations

import os
import signal
import threading
import time

from orpo_cli.run_log import run_log

POLL_SECONDS = 1.0
LEAVE_SECONDS = 1800.0  # a rank that cannot leave waits for another one that is gone


def stop_with_parent(parent: int | None = None) -> None:
    """From now on, this process stops as for a signal when its parent has ended: it completes the step and saves.

    ``parent``: its process id, where the parent may have ended already.
    """
    parent = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(parent,), name="watch parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    run_log.write("the process that started this one has ended: it saves a checkpoint and stops")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os._exit(1)
