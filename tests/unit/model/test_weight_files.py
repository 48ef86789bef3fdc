"""Digests of a base model, by which a resumed run recognizes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_run import make_base

from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.weight_files import BaseDigests
from orpo_cli.recipe.schema import ModelSection


@pytest.mark.parametrize("trusted", [False, True])
def test_the_code_of_a_local_model_counts_where_it_runs(tmp_path: Path, trusted: bool) -> None:
    base = make_base(tmp_path / "base")
    (base / "modeling_own.py").write_text("SCALE = 1\n")
    source = ModelSource(ModelSection(model_name_or_path=str(base), trust_remote_code=trusted))
    with BaseDigests(source) as digests:
        found = digests.result()
    assert sorted(found) == ["config.json", "model.safetensors", *(["modeling_own.py"] if trusted else [])]
