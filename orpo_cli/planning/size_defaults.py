"""Default learning rates and beta by the size of the model.

They condense the paper (appendix C of arXiv 2403.07691), the authors' scripts and answers (xfactlab/orpo, issues 5 and 28),
alignment-handbook's recipes and the widely used LoRA recipes; docs/concepts.md lists them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class SizeDefaults:
    """Defaults for models of at most ``max_billions`` parameters."""

    max_billions: float
    full_learning_rate: float
    lora_learning_rate: float
    beta: float


DEFAULTS_BY_SIZE = (
    SizeDefaults(1.5, 1e-5, 1e-4, 0.25),
    SizeDefaults(5, 8e-6, 5e-5, 0.2),
    SizeDefaults(20, 5e-6, 5e-5, 0.1),
    SizeDefaults(float("inf"), 5e-6, 2e-5, 0.05),
)
UNKNOWN_SIZE = DEFAULTS_BY_SIZE[2]


def defaults_for_size(parameters: int | None, name: str) -> tuple[SizeDefaults, str]:
    """The row for a number of parameters (None: that in the model's ``name``, or else 7B), and how to name it in a reason."""
    if parameters is not None:
        return _row(parameters), size_in_words(parameters)
    named = parameters_in_name(name)
    if named is None:
        return UNKNOWN_SIZE, "a 7B model (the size is not known here)"
    return _row(named), f"{size_in_words(named)} (by the model's name)"


def size_in_words(parameters: int) -> str:
    """A number of parameters in a sentence: 49,280, 135M or 8B parameters."""
    if parameters < 1e6:
        size = f"{parameters:,}"
    elif parameters < 1e9:
        size = f"{parameters / 1e6:.{int(parameters < 1e7)}f}M"
    else:
        size = f"{parameters / 1e9:.2g}B"
    return f"{size} parameters"


def parameters_in_name(name: str) -> int | None:
    """The number of parameters that the name of a model says: 500 million for Qwen/Qwen2.5-0.5B-Instruct; None if it says none."""
    found = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BMbm])(?![A-Za-z0-9])", name.rpartition("/")[2])
    return None if found is None else round(float(found[1]) * (1e9 if found[2] in "Bb" else 1e6))


def _row(parameters: int) -> SizeDefaults:
    return next(row for row in DEFAULTS_BY_SIZE if parameters <= row.max_billions * 1e9)
