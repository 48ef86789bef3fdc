"""`orpo recipes`: the list of shipped recipes, and one of them printed."""

import json

import pytest

from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes

SHIPPED = [recipe.name for recipe in shipped_recipes()]


def test_recipes_prints_one_line_per_recipe(orpo):
    lines = orpo("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == SHIPPED
    assert lines[SHIPPED.index("quickstart")].endswith(shipped_recipe("quickstart").summary)


def test_json_lists_names_and_families(orpo):
    listed = json.loads(orpo("recipes", "--json").stdout)["recipes"]
    assert [each["name"] for each in listed] == SHIPPED
    assert {each["name"]: each["family"] for each in listed}["llama3-8b-qlora"] == "llama"


@pytest.mark.parametrize("name", SHIPPED)
def test_show_prints_the_file_without_the_line_for_editors(name, orpo_here):
    done = orpo_here("recipes", "show", name)
    assert done.stdout.encode() == shipped_recipe(name).path.read_bytes().partition(b"\n")[2]


def test_a_name_without_show_prints_the_recipe_and_the_list_says_so(orpo_here):
    assert "`orpo recipes NAME` prints one" in orpo_here("recipes").stderr
    done = orpo_here("recipes", "quickstart")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == orpo_here("recipes", "show", "quickstart").stdout


def test_show_without_a_name_is_answered_with_a_command_that_exists(orpo_here):
    done = orpo_here("recipes", "show")
    assert done.returncode == 2
    assert "See `orpo recipes show --help`." in done.stderr
    assert orpo_here("recipes", "show", "--help").returncode == 0


@pytest.mark.parametrize("command", [("recipes", "show"), ("recipes",)])
def test_show_of_an_unknown_name_exits_2(orpo, command):
    done = orpo(*command, "nothing-like-it")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "There are: " in done.stderr


def test_json_with_show_is_refused_because_it_does_nothing(orpo):
    assert orpo("recipes", "--json", "show", "quickstart").returncode == 2
