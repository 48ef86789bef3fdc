"""Shipped recipes: each is valid, has a complete header, and finds its data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.shipped_recipes import find_shipped, shipped_folder, shipped_recipe, shipped_recipes

RECIPES = {recipe.name: recipe for recipe in shipped_recipes()}


def test_the_recipes_of_the_repository_are_found():
    assert {"quickstart", "llama3-8b-qlora", "mistral-7b-orpo-beta"} <= RECIPES.keys()
    assert len(RECIPES) == len(list(shipped_folder().rglob("*.yaml"))), "two files have the same name"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_and_found_by_name(name):
    assert load_recipe(str(RECIPES[name].path)).recipe == load_recipe(name).recipe
    assert find_shipped(name) == RECIPES[name].path
    if RECIPES[name].family:
        assert find_shipped(f"{RECIPES[name].family}/{name}") == RECIPES[name].path


@pytest.mark.parametrize("name", RECIPES)
def test_name_and_output_directory_of_a_shipped_recipe_match_its_file(name):
    loaded = load_recipe(name)
    assert loaded.name == name
    assert loaded.recipe.output_dir == f"runs/{name}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_begins_with_a_summary_of_one_sentence(name):
    summary = RECIPES[name].summary
    assert 20 < len(summary) <= 110
    assert summary.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_has_hardware_memory_and_source_in_its_header(name):
    header = RECIPES[name].text().split("\n\n")[0]
    for field in ("Hardware", "Memory", "Source"):
        assert f"\n# {field} " in header


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_has_no_warnings(name):
    assert load_recipe(name, strict=True).warnings == ()


def test_the_pairs_of_the_quickstart_are_in_its_directory():
    loaded = load_recipe("quickstart")
    for source, minimum in ((loaded.recipe.dataset.train[0], 240), (loaded.recipe.dataset.eval[0], 60)):
        rows = [
            json.loads(line)
            for line in (loaded.files[0].directory / source.path).read_text(encoding="utf-8").splitlines()
        ]
        assert len(rows) >= minimum
        assert all({"chosen", "rejected"} <= row.keys() for row in rows)


def test_an_unknown_name_is_an_error_with_the_nearest_name():
    assert find_shipped("quickstrat") is None
    with pytest.raises(UsageError, match="no shipped recipe") as caught:
        shipped_recipe("quickstrat")
    assert caught.value.remedy == "Did you mean `quickstart`?"


@pytest.mark.parametrize(
    "name", ["../pyproject", "data/../quickstart", "quickstart.yaml", "/quickstart.yaml", "phi/phi-2-orpo", ""]
)
def test_paths_are_not_accepted_as_recipe_names(name):
    assert find_shipped(name) is None


def test_the_schema_line_is_not_the_summary(tmp_path):
    from orpo_cli.recipe.source.shipped_recipes import _summary

    file = tmp_path / "x.yaml"
    file.write_text("# yaml-language-server: $schema=recipe.schema.json\n#\n# What it is.\n# More.\n\nname: x\n")
    assert _summary(file) == "What it is."
    file.write_text("name: x\n# Not a header.\n")
    assert _summary(file) == ""


def test_recipes_inside_the_package_are_found_first(tmp_path):
    """In a wheel, the directory is orpo_cli/_recipes."""
    import orpo_cli

    package = tmp_path / "orpo_cli"
    package.mkdir()
    for source in Path(orpo_cli.__file__).parent.iterdir():
        if source.suffix == ".py" or source.name == "recipe":
            (package / source.name).symlink_to(source)
    (package / "_recipes" / "family").mkdir(parents=True)
    (package / "_recipes" / "family" / "tiny.yaml").write_text("# Tiny.\nname: tiny\n")
    script = "from orpo_cli.recipe.source.shipped_recipes import shipped_recipes as s; print([(r.name, r.family, r.summary) for r in s()])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[('tiny', 'family', 'Tiny.')]\n"
