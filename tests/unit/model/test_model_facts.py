"""Model facts: those of the cache are those of the model, and a damaged file or other code or settings are computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_tiny_model

from orpo_cli.errors import HubError, MachineError
from orpo_cli.model import model_facts
from orpo_cli.model.model_source import ModelSource
from orpo_cli.recipe.schema import ModelSection
from orpo_cli.recipe.schema.model import RopeScaling


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    save_tiny_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose class was imported and built."""
    names: list[str] = []
    build = model_facts._facts_from_config

    def record(config: Any, section: ModelSection, *settings: Any) -> Any:
        names.append(config.model_type)
        return build(config, section, *settings)

    monkeypatch.setattr(model_facts, "_facts_from_config", record)
    return names


def facts_of(folder: Path, *settings: Any, **section: Any) -> model_facts.ModelFacts:
    return model_facts.model_facts(ModelSource(ModelSection(model_name_or_path=str(folder), **section)), *settings)


def test_cached_facts_equal_those_of_the_model(folder: Path, built: list[str]) -> None:
    first, second = facts_of(folder), facts_of(folder)
    assert first == second
    assert first.config_values == second.config_values
    assert first.config.to_dict() == second.config.to_dict()
    assert len(built) == 1


def test_other_settings_configurations_and_code_are_other_facts(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts_of(folder)
    facts_of(folder, 128)
    longer = facts_of(folder, rope_scaling=RopeScaling(rope_type="linear", factor=2.0))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    shallow = facts_of(folder)
    monkeypatch.setattr(model_facts, "_code", lambda: "another version")
    facts_of(folder)
    assert len(built) == 5
    assert shallow.num_hidden_layers == 1
    assert longer.max_position_embeddings == 2 * (shallow.max_position_embeddings or 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "digit"])
def test_a_damaged_file_is_replaced(folder: Path, built: list[str], text: str) -> None:
    first = facts_of(folder)
    (path,) = (folder.parent / "cache" / "model-facts").iterdir()
    path.write_text(path.read_text().replace(str(first.parameters), "7") if text == "digit" else text)
    assert facts_of(folder) == facts_of(folder) == first
    assert len(built) == 2


def test_a_damaged_file_of_the_model_is_reported_with_cached_facts(folder: Path) -> None:
    facts_of(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(MachineError, match=r"generation_config\.json: cannot be read"):
        facts_of(folder)


def test_a_model_that_is_not_here_is_reported_as_transformers_does(folder: Path) -> None:
    source = ModelSource(ModelSection(model_name_or_path="someone/their-model"))
    with pytest.raises(HubError) as found:
        model_facts.model_facts(source)
    with pytest.raises(HubError) as expected:
        source.config()
    assert (str(found.value), found.value.remedy) == (str(expected.value), expected.value.remedy)
