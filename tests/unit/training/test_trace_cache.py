"""Trace cache: the traced figures again, and none for other inputs, other code or a damaged file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.training import trace_cache

PAIRS = (PairSize(3, 4, 5),)
FLOAT32 = Computation("float32")


def config(**changes: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "num_hidden_layers": 2, **changes}


class Traces:
    """Function that counts its calls."""

    def __init__(self, untraced: str | None = None) -> None:
        self.calls = 0
        self.untraced = untraced

    def __call__(self) -> Activations:
        self.calls += 1
        return Activations(1.5, 2.0, self.untraced, forward=3, kept=4, after_head=self.calls)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path))
    return tmp_path / "traces"


def test_the_second_trace_of_the_same_inputs_is_read(folder: Path) -> None:
    run = Traces()
    first, second = (trace_cache.cached_trace(config(), FLOAT32, PAIRS, run) for _ in range(2))
    assert first == second == Activations(1.5, 2.0, None, forward=3, kept=4, after_head=1)
    assert run.calls == 1
    assert len(list(folder.iterdir())) == 1


def test_other_inputs_are_traced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Traces()
    trace_cache.cached_trace(config(), FLOAT32, PAIRS, run)
    trace_cache.cached_trace(config(hidden_size=64), FLOAT32, PAIRS, run)
    trace_cache.cached_trace(config(), Computation("bfloat16"), PAIRS, run)
    trace_cache.cached_trace(config(), FLOAT32, (PairSize(3, 4, 6),), run)
    monkeypatch.setattr(trace_cache, "_code", lambda: "another version")
    trace_cache.cached_trace(config(), FLOAT32, PAIRS, run)
    assert run.calls == 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "digit"])
def test_a_damaged_file_is_replaced(folder: Path, text: str) -> None:
    run = Traces()
    first = trace_cache.cached_trace(config(), FLOAT32, PAIRS, run)
    (path,) = folder.iterdir()
    path.write_text(path.read_text().replace("1.5", "7.5") if text == "digit" else text)
    again = trace_cache.cached_trace(config(), FLOAT32, PAIRS, run)
    assert (again.layers, run.calls) == (first.layers, 2)
    assert json.loads(json.loads(path.read_text())["value"])["layers"] == 1.5


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "file"))
    run = Traces()
    assert trace_cache.cached_trace(config(), FLOAT32, PAIRS, run).layers == 1.5


def test_rough_estimates_and_models_with_code_of_their_own_are_not_cached(folder: Path) -> None:
    trace_cache.cached_trace(None, FLOAT32, PAIRS, Traces())
    trace_cache.cached_trace(config(), FLOAT32, PAIRS, Traces(untraced="no code"))
    assert not folder.exists() or not list(folder.iterdir())
