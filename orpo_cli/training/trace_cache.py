"""Trace cache: memory traces on disk, so that a second plan of the same model and a training after a plan trace nothing.

A trace depends only on the configuration of the model, the computation, the lengths of the pairs, and the code that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.json_cache import code_digest, read_cached, write_cached
from orpo_cli.json_files import is_number

_KIND = "traces"


def cached_trace(
    config_values: Mapping[str, Any] | None,
    computation: Computation,
    pairs: Sequence[PairSize],
    trace: Callable[[], Activations],
) -> Activations:
    """The result of ``trace()``, from the cache where it has one; a cache that cannot be read or written is not used.

    ``config_values``: the configuration of the text model; None where the model's code is not in transformers, whose traces are
    not cached. Raises the errors of ``trace``.
    """
    if config_values is None:
        return trace()
    key = [config_values, asdict(computation), [tuple(pair) for pair in pairs], _code()]
    if (found := _activations(read_cached(_KIND, key))) is not None:
        return found
    result = trace()
    if result.untraced is None:
        write_cached(_KIND, key, asdict(result))
    return result


def _activations(values: Any) -> Activations | None:
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(Activations)}:
        return None
    numbers = [value for name, value in values.items() if name != "untraced"]
    return Activations(**values) if all(map(is_number, numbers)) else None


@cache
def _code() -> str:
    """Digest of the code that a trace runs: the engine, the trace itself, and the versions of the libraries."""
    folder = Path(__file__).parent
    names = ("memory_trace", "allocation_counter", "traced_model", "out_of_memory")
    return code_digest(
        ("torch", "transformers", "peft"), [*folder.glob("engine/*.py"), *(folder / f"{name}.py" for name in names)]
    )
