"""`orpo plan`: its estimate of memory and time per step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe


def test_the_parts_of_an_estimate_add_up(tmp_path: Path, orpo_here: Callable[..., Any]) -> None:
    recipe = write_recipe(tmp_path)
    estimate = json.loads(orpo_here("plan", recipe, "--json").stdout)["estimate"]
    parts = dict(estimate["memory_bytes"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=10)
    assert {"weights", "adapter", "gradients", "optimizer", "activations", "logits"} <= parts.keys()
    assert (estimate["verdict"], estimate["activations"], estimate["lengths"]) == ("fits", "traced", "of the pairs")
    assert estimate["step"]["tokens"] > 0


def test_a_rough_estimate_names_its_reason(
    tmp_path: Path, orpo_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward_that_needs_values(*_: Any, **__: Any) -> None:
        raise NotImplementedError("numbers without content\nsecond line")

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaDecoderLayer.forward", forward_that_needs_values)
    stdout = orpo_here("plan", write_recipe(tmp_path)).stdout
    assert "roughly, from the widths of the layers (NotImplementedError: numbers without content)" in stdout
