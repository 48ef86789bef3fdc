"""Every shipped recipe validates, says what it is, and finds the data it brings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.shipped_recipes import find_shipped, shipped_folder, shipped_recipe, shipped_recipes

RECIPES = {recipe.name: recipe for recipe in shipped_recipes()}


def test_the_recipes_of_the_checkout_are_found():
    assert {"quickstart", "llama3-8b-qlora", "mistral-7b-orpo-beta"} <= RECIPES.keys()
    assert len(RECIPES) == len(list(shipped_folder().rglob("*.yaml"))), "two files of one name"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_validates_and_is_found_by_its_name(name):
    assert load_recipe(str(RECIPES[name].path)).recipe == load_recipe(name).recipe
    assert find_shipped(name) == RECIPES[name].path


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_named_as_its_file_and_runs_where_its_name_says(name):
    loaded = load_recipe(name)
    assert loaded.name == name
    assert loaded.recipe.output_dir == f"runs/{name}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_opens_with_one_sentence_about_itself(name):
    summary = RECIPES[name].summary
    assert 20 < len(summary) <= 110
    assert summary.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_says_hardware_memory_and_source(name):
    header = RECIPES[name].text().split("\n\n")[0]
    for field in ("Hardware", "Memory", "Source"):
        assert f"\n# {field} " in header


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_gives_no_warning(name):
    assert load_recipe(name, strict=True).warnings == ()


def test_the_quickstarts_pairs_lie_beside_it():
    loaded = load_recipe("quickstart")
    for source, at_least in ((loaded.recipe.dataset.train[0], 240), (loaded.recipe.dataset.eval[0], 60)):
        rows = [json.loads(line) for line in (loaded.directory / source.path).read_text(encoding="utf-8").splitlines()]
        assert len(rows) >= at_least
        assert all({"chosen", "rejected"} <= row.keys() for row in rows)


def test_an_unknown_name_is_an_error_that_names_the_nearest():
    assert find_shipped("quickstrat") is None
    with pytest.raises(UsageError, match="no shipped recipe") as caught:
        shipped_recipe("quickstrat")
    assert caught.value.remedy == "Did you mean `quickstart`?"


@pytest.mark.parametrize("name", ["../pyproject", "data/../quickstart", "quickstart.yaml", ""])
def test_only_names_are_found_and_no_paths(name):
    assert find_shipped(name) is None


def test_the_line_for_editors_is_not_taken_for_the_summary(tmp_path):
    from orpo_cli.recipe.source.shipped_recipes import _summary

    file = tmp_path / "x.yaml"
    file.write_text("# yaml-language-server: $schema=recipe.schema.json\n#\n# What it is.\n# More.\n\nname: x\n")
    assert _summary(file) == "What it is."
    file.write_text("name: x\n# Not a header.\n")
    assert _summary(file) == ""


def test_recipes_inside_the_package_are_found_first(tmp_path):
    """As in a wheel, where the folder is orpo_cli/_recipes."""
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
