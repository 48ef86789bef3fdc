"""JSON Schema of a recipe: it has every key, and it accepts the same values as the loader."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path as FilePath
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES, migrate_recipe
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.json_schema import recipe_schema
from orpo_cli.recipe.source.nodes import plain_values
from orpo_cli.recipe.source.shipped_recipes import shipped_folder, shipped_recipes
from orpo_cli.recipe.source.yaml_reader import read_yaml

SCHEMA = recipe_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SHIPPED = {recipe.name: recipe for recipe in shipped_recipes()}
LEAST: dict[str, Any] = {"model": {"model_name_or_path": "a/b"}, "dataset": {"train": {"path": "x.jsonl"}}}

Path = tuple[str, ...]


def schema_accepts(values: dict[str, Any]) -> bool:
    return VALIDATOR.is_valid(values)


def loader_accepts(values: dict[str, Any]) -> bool:
    """Whether the loader accepts every single value; cross-field rules are not part of the schema."""
    named, _, problems = migrate_recipe(deepcopy(values))
    if any(problem.severity == "error" and problem.code != "conflicting-arguments" for problem in problems):
        return False
    try:
        Recipe.model_validate(named)
    except ValidationError:
        return False
    return True


def keys(schema: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All keys of all sections with their paths and schemas."""
    for name, value in schema.get("properties", {}).items():
        yield (*path, name), value
        for each in (value, *value.get("anyOf", ())):
            yield from keys(SCHEMA["$defs"]["source"] if each == {"$ref": "#/$defs/source"} else each, (*path, name))


KEYS = dict(keys(SCHEMA))
NOT_THE_SAME = {
    "push_to_hub_organization": "the loader accepts it only together with push_to_hub_model_id",
    "trackio_static_space_id": "pydantic takes 0 for false",
}
MUTABLE = [path for path in KEYS if path[0] != "extends" and path[-1] not in NOT_THE_SAME]


def recipe_with_value(path: Path, value: Any) -> dict[str, Any]:
    """The smallest recipe with ``value`` at ``path``."""
    values = deepcopy(LEAST)
    if path[:2] == ("dataset", "eval") and len(path) > 2:
        values["dataset"]["eval"] = {} if path[2] == "test_size" else {"path": "y.jsonl"}
    here = values
    for part in path[:-1]:
        here = here.setdefault(part, {})
    here[path[-1]] = value
    return values


def test_the_schema_is_valid_for_its_draft() -> None:
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description_and_an_example() -> None:
    from orpo_cli.recipe.did_you_mean import known_keys

    sections = [(), *((name,) for name in Recipe.model_fields), ("dataset", "train"), ("dataset", "eval")]
    known = {(*section, name) for section in sections for name in known_keys(section)}
    assert known <= KEYS.keys()
    for path, value in KEYS.items():
        assert value["description"].endswith((".", "?")), path
        assert value.get("examples") or value.get("deprecated"), path


@pytest.mark.parametrize("path", [path for path in KEYS if "examples" in KEYS[path]], ids=".".join)
def test_examples_and_defaults_are_valid(path: Path) -> None:
    default = [KEYS[path]["default"]] if "default" in KEYS[path] else []
    for value in (*KEYS[path]["examples"], *default):
        assert schema_accepts(recipe_with_value(path, value)), value
        assert loader_accepts(recipe_with_value(path, value)), value


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_accepted_value_may_be_a_reference_to_the_environment(path: Path) -> None:
    policy = ARGUMENT_POLICIES.get(path[-1]) if path[0] == "training" else None
    kept = policy is None or policy.supported or policy.ignored
    refused = not kept and policy.new_path is None
    for text in ("${NAME}", "${NAME:-1e-5}"):
        assert schema_accepts(recipe_with_value(path, text)) is not refused
    assert not schema_accepts(recipe_with_value(("training", "beta"), "${NAME} and more"))


def test_the_loader_accepts_a_reference_wherever_it_accepts_the_value(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipe.yaml"
    refused = []
    for path in MUTABLE:
        for example in KEYS[path].get("examples", ())[:1]:
            monkeypatch.setenv("NAME", json.dumps(example))
            file.write_text(json.dumps(recipe_with_value(path, "${NAME}")))
            try:
                load_recipe(str(file))
            except RecipeError as error:
                refused += [
                    each for each in error.problems if each.code in ("invalid-value", "unknown-key", "missing-key")
                ]
    assert refused == []


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_valid_and_names_the_schema_for_editors(name: str) -> None:
    recipe = SHIPPED[name]
    assert [error.message for error in VALIDATOR.iter_errors(plain_values(read_yaml(recipe.text(), name)))] == []
    modeline = re.match(r"# yaml-language-server: \$schema=(\S+)\n", recipe.text())
    assert modeline, "the first line tells editors where the schema is"
    assert (recipe.path.parent / modeline[1]).resolve() == (shipped_folder() / "recipe.schema.json").resolve()


def test_required_keys_are_optional_in_a_recipe_that_extends_another() -> None:
    child = {"extends": "base.yaml", "model": {"dtype": "bfloat16"}, "dataset": {"train": {"max_samples": 10}}}
    assert schema_accepts(child)
    for without in ({**child, "extends": None}, {key: child[key] for key in ("model", "dataset")}):
        assert not schema_accepts(without)
    assert not schema_accepts({"extends": "base.yaml", "dataset": {"train": [{"max_samples": 10}]}})


ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 10**12, -0.5, 0.5, 1.5, 1e-9, "", "x", "auto", "steps", "adamw_hf", "5GB", "1", "none",
    [], ["x"], [1], [None], ["safetensors"], [{"path": "z"}], {}, {"a": 1}, {"a": "b"}, {"test_size": 0.5}, {"path": "z"},
]  # fmt: skip


@pytest.mark.parametrize("path", [path for path in KEYS if path[-1] not in NOT_THE_SAME], ids=".".join)
def test_schema_and_loader_agree_on_unusual_values_of_every_key(path: Path) -> None:
    recipes = [recipe_with_value(path, value) for value in ODD]
    assert [values for values in recipes if schema_accepts(values) != loader_accepts(values)] == []


def mutated(values: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """``values`` with a few good values more, and in most cases an accident or two.

    Keys are dropped, misspelt or moved, values are of another kind or out of range.
    """
    values = deepcopy(values)
    for path in draw.sample(MUTABLE, 3):
        if isinstance(section := values.setdefault(path[0], {}), dict) and len(path) == 2:
            section[path[1]] = deepcopy(draw.choice(KEYS[path].get("examples", [None])))
    for _ in range(draw.choice([0, 1, 1, 2])):
        mapping = draw.choice(list(mappings(values)))
        key = draw.choice(list(mapping) or ["name"])
        match draw.randrange(6):
            case 0:
                mapping.pop(key, None)
            case 1:
                mapping[key[:-1] + draw.choice("aeiou")] = mapping.pop(key, 1)
            case 2:
                draw.choice(list(mappings(values)))[key] = mapping.pop(key, None)
            case 3:
                mapping[key] = [deepcopy(mapping.get(key))]
            case _:
                mapping[key] = deepcopy(draw.choice(ODD))
    return values


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)


def test_schema_and_loader_agree_on_random_recipes() -> None:
    draw = random.Random(0)
    bases = [plain_values(read_yaml(recipe.text(), name)) for name, recipe in SHIPPED.items()]
    recipes = [mutated(draw.choice(bases), draw) for _ in range(600)]
    verdicts = [schema_accepts(values) for values in recipes]
    disagreed = [values for values, verdict in zip(recipes, verdicts, strict=True) if loader_accepts(values) != verdict]
    assert disagreed == []
    assert verdicts.count(True) >= 100
    assert verdicts.count(False) >= 300
