"""What a call costs, in what does not depend on the machine; and a guard against what would never end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDLESS = 60  # seconds of processor time: what is guarded against takes hours


def calls(function: Callable[[], Any]) -> int:
    """How many Python and C functions ``function`` calls."""
    count = 0

    def profile(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@contextmanager
def ending() -> Iterator[None]:
    """Fail what takes more than ``ENDLESS`` seconds of processor time."""

    def too_long(*_: Any) -> None:
        raise AssertionError(f"has not ended after {ENDLESS} seconds of processor time")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, ENDLESS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
