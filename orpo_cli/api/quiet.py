"""Quiet calls: libraries print no bars and messages while a function of the Python interface runs; afterwards all is as before."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.text import Text

from orpo_cli.api.messages import in_python, messages_for_python
from orpo_cli.library_messages import OPTIONAL_KERNELS, ignore_developer_warnings
from orpo_cli.report.console import Console
from orpo_cli.run_log import run_log

_calls: list[None] = []  # an entry for each call that goes on, in any thread


class PythonConsole(Console):
    """Console whose lines name arguments and functions of Python."""

    def print_line(self, text: str, style: str | None = None, *, hidden: bool = False) -> None:
        """As in the base class."""
        super().print_line(in_python(text), style, hidden=hidden)

    def result(self, renderable: Any) -> None:
        """As in the base class; of a rich text that changes, the style is lost."""
        plain = str(renderable) if isinstance(renderable, str | Text) else ""
        super().result(renderable if in_python(plain) == plain else in_python(plain))


@contextmanager
def console_of_call(verbose: bool) -> Iterator[Console]:
    """The console of one call: it prints what the command prints, or nothing. The libraries are quiet.

    An OrpoError that leaves the call names arguments and functions of Python.
    """
    with ExitStack() as stack:
        stack.enter_context(messages_for_python())
        stack.enter_context(environment_variable("TRL_EXPERIMENTAL_SILENCE", "1"))
        stack.enter_context(warnings.catch_warnings())
        ignore_developer_warnings()
        stack.enter_context(_quiet_libraries())
        if not _calls:  # not in a callback of a training, whose log is open
            run_log.discard()
            stack.callback(run_log.discard)
        _calls.append(None)
        stack.callback(_calls.pop)
        yield PythonConsole(log_only=not verbose)


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Context in which an environment variable is set, unless it is already."""
    before = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    import datasets
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    bars = {
        (datasets.disable_progress_bars, datasets.enable_progress_bars): datasets.are_progress_bars_disabled(),
        (disable_progress_bars, enable_progress_bars): are_progress_bars_disabled(),
        (logging.disable_progress_bar, logging.enable_progress_bar): not logging.is_progress_bar_enabled(),
    }
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    kernel_level = OPTIONAL_KERNELS.level
    OPTIONAL_KERNELS.setLevel("ERROR")
    for disable, _ in bars:
        disable()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        OPTIONAL_KERNELS.setLevel(kernel_level)
        for (_, enable), was_disabled in bars.items():
            if not was_disabled:
                enable()
