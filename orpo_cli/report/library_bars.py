"""Progress bars of the libraries (tqdm: downloads, loading of weights) as a text, where orpo-cli has a display of its own.

They would write over the display. A download of many gigabytes has to show its progress, so they are not only switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orpo_cli.control_characters import one_line
from orpo_cli.redaction import redact


@contextmanager
def library_bars_as_text(show: Callable[[str], None]) -> Iterator[None]:
    """Context in which each bar gives its text to ``show``, and prints nothing; an empty text when it is complete."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    original = tqdm.display

    def display(bar: Any, msg: str | None = None, pos: int | None = None) -> None:
        bar.sp = None  # a bar without a printer leaves no line when it is closed
        show("" if bar.total is not None and bar.n >= bar.total else one_line(redact(_text(bar))))

    tqdm.display = display  # the method that tqdm's documentation advises to replace for another frontend
    try:
        yield
    finally:
        tqdm.display = original


def _text(bar: Any) -> str:
    """``model.safetensors 1.23G/4.98G``."""
    done, total = bar.n, bar.total
    if bar.unit_scale:
        sizes = [bar.format_sizeof(each, divisor=bar.unit_divisor) for each in (done, total) if each is not None]
    else:
        sizes = [str(each) for each in (done, total) if each is not None]
    return f"{(bar.desc or '').removesuffix(': ')} {'/'.join(sizes)}".strip()
