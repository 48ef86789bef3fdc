"""Imports of large libraries without garbage collection, which finds nothing in them.

torch, transformers, peft and trl make 500,000 objects that live as long as the process. Collections during their import take a tenth of
its time, and every later full collection visits them: half a second each. In a process of a command they are excluded from collections.
"""

from __future__ import annotations

import gc
import importlib
import sys

from orpo_cli import interruption

_in_command = False


def begin_command() -> None:
    """From now on, this process runs one command and ends. Not where torch is imported: models of a test must be freed."""
    global _in_command
    _in_command = "torch" not in sys.modules


def import_libraries(*names: str) -> None:
    """Import these modules, before code that would import them one by one. Nothing where another program uses this package.

    Where a library cannot be imported, that code reports it.
    """
    if not _in_command:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError:
        interruption.raise_if_requested()  # a library may convert the exception of a signal
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
