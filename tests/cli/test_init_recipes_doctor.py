"""orpo init, orpo recipes and orpo doctor, as a user runs them."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes
from orpo_cli.workflows.doctor import EXTRAS, required_packages
from orpo_cli.workflows.init import START_RECIPE, new_recipe_text

SHIPPED = [recipe.name for recipe in shipped_recipes()]
TOKEN = "hf_" + "x" * 30


def orpo(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "orpo_cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# init


def test_init_writes_a_recipe_that_validates_and_says_what_comes_next(tmp_path):
    done = orpo("init", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "wrote recipe.yaml\n"
    assert "orpo plan recipe.yaml" in done.stderr
    assert (tmp_path / "recipe.yaml").read_text() == START_RECIPE
    assert load_recipe(str(tmp_path / "recipe.yaml")).recipe.output_dir == "runs/recipe"


def test_every_section_of_the_start_that_is_commented_out_validates_too(tmp_path):
    lines = [
        line.replace("# ", "", 1) if line.startswith("# ") and ":" in line and "recipe" not in line.lower() else line
        for line in START_RECIPE.splitlines()
    ]
    file = tmp_path / "x.yaml"
    file.write_text("\n".join(lines).replace("    # columns", "    columns"))
    recipe = load_recipe(str(file)).recipe
    assert recipe.quantization is not None
    assert recipe.dataset.train[0].columns == {"chosen": "good", "rejected": "bad"}


def test_init_fills_in_name_model_and_data(tmp_path):
    done = orpo("init", "helpful", "--model", "some/model", "--data", "my data: 1.jsonl", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"status": "ok", "path": "helpful.yaml", "name": "helpful"}
    recipe = load_recipe(str(tmp_path / "helpful.yaml")).recipe
    assert (recipe.name, recipe.output_dir) == ("helpful", "runs/helpful")
    assert recipe.model.model_name_or_path == "some/model"
    assert recipe.dataset.train[0].path == "my data: 1.jsonl"


def test_init_refuses_to_write_over_a_file_unless_forced(tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    refused = orpo("init", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert orpo("init", "mine", "--force", cwd=tmp_path).returncode == 0
    assert load_recipe(str(tmp_path / "mine.yaml")).recipe.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("x", "-o", "nowhere/x.yaml"), "there is no folder"),
        (("x", "-o", "."), "it is a folder"),
        (("x", "--model", ""), "--model is empty"),
        (("x", "--data", " "), "--data is empty"),
        (("x", "--from", "quickstrat"), "Did you mean `quickstart`?"),
    ],
)
def test_init_refuses_what_it_cannot_write(tmp_path, arguments, says, orpo_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = orpo_here("init", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_init_in_a_folder_without_permission_exits_3(tmp_path):
    tmp_path.chmod(0o500)
    done = orpo("init", cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_init_from_a_shipped_recipe_keeps_its_comments_and_validates(name, tmp_path):
    shipped = shipped_recipe(name)
    file = tmp_path / "copy.yaml"
    file.write_text(new_recipe_text("copy", file, shipped, None, None))
    assert [line for line in shipped.text().splitlines()[1:] if line.startswith("#")] == [
        line for line in file.read_text().splitlines() if line.startswith("#")
    ]
    copy, original = load_recipe(str(file)).recipe, load_recipe(name).recipe
    assert (copy.name, copy.output_dir) == ("copy", "runs/copy")
    assert (copy.model, copy.lora, copy.training) == (original.model, original.lora, original.training)


@pytest.mark.parametrize("name", SHIPPED)
def test_init_from_a_shipped_recipe_with_other_data_leaves_nothing_of_the_old_data(name, tmp_path):
    file = tmp_path / "copy.yaml"
    file.write_text(new_recipe_text("copy", file, shipped_recipe(name), "some/model", "pairs.jsonl"))
    recipe = load_recipe(str(file)).recipe
    assert recipe.model.model_name_or_path == "some/model"
    assert [source.model_dump(exclude_defaults=True) for source in recipe.dataset.train] == [{"path": "pairs.jsonl"}]
    held_out = None if load_recipe(name).recipe.dataset.eval is None else 0.05
    assert getattr(recipe.dataset.eval, "test_size", None) == held_out


def test_init_from_the_quickstart_finds_its_pairs_from_anywhere(tmp_path):
    file = tmp_path / "copy.yaml"
    file.write_text(new_recipe_text("copy", file, shipped_recipe("quickstart"), None, None))
    dataset = load_recipe(str(file)).recipe.dataset
    for source in (dataset.train[0], dataset.eval[0]):
        assert (tmp_path / source.path).is_file()


@pytest.mark.parametrize(
    "value", ["null", "yes", "1e5", ".5e3", "a: b", "a #b", "~", 'a"b', "ä/ö", "../x.jsonl", "C:\\x", "[a]"]
)
def test_any_path_is_written_so_that_it_reads_back(value, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(new_recipe_text("x", file, None, None, value), encoding="utf-8")
    assert load_recipe(str(file)).recipe.dataset.train[0].path == value


# recipes


def test_recipes_lists_a_line_a_recipe():
    lines = orpo("recipes").stdout.splitlines()
    assert [line.split()[0] for line in lines] == SHIPPED
    assert lines[SHIPPED.index("quickstart")].endswith(shipped_recipe("quickstart").summary)


def test_recipes_as_json():
    listed = json.loads(orpo("recipes", "--json").stdout)["recipes"]
    assert [each["name"] for each in listed] == SHIPPED
    assert {each["name"]: each["family"] for each in listed}["llama3-8b-qlora"] == "llama"


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_show_prints_the_file_without_its_line_for_editors(name, orpo_here):
    done = orpo_here("recipes", "show", name)
    assert done.stdout.encode() == shipped_recipe(name).path.read_bytes().partition(b"\n")[2]


def test_recipes_show_of_an_unknown_name_exits_2():
    done = orpo("recipes", "show", "nothing-like-it")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "There are: " in done.stderr


def test_json_beside_show_is_refused_because_it_would_do_nothing():
    assert orpo("recipes", "--json", "show", "quickstart").returncode == 2


# doctor


def fake_package(folder, name, version):
    """Metadata of an installed package, found before the real one's when ``folder`` is on PYTHONPATH."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_doctor_exits_0_where_training_can_run():
    done = orpo("doctor")
    assert done.returncode == 0, done.stderr
    assert f"{metadata.version('trl')}, pinned ==" in done.stdout
    assert done.stdout.endswith("Training can run here.\n")


def test_doctor_as_json_tells_packages_machine_and_hub():
    report = json.loads(orpo("doctor", "--json").stdout)
    assert (report["status"], report["exit_code"], report["problems"]) == ("ok", 0, [])
    packages = {each["name"]: each for each in report["packages"]}
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets"} <= packages.keys()
    assert packages["trl"]["installed"] == metadata.version("trl")
    assert report["machine"]["cpu_count"] >= 1
    assert report["machine"]["ram_bytes"] > 1 << 28


def test_doctor_exits_3_where_the_trl_pin_is_not_held(tmp_path):
    fake_package(tmp_path, "trl", "9.9.9")
    done = orpo("doctor", "--json", PYTHONPATH=str(tmp_path))
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 3
    assert [each["message"] for each in report["problems"]] == ["trl 9.9.9 is installed, but ==1.16.0 is required."]
    assert report["problems"][0]["remedy"].endswith("-m pip install 'trl==1.16.0'")
    assert "trl 9.9.9" in done.stderr


def test_doctor_exits_3_where_torch_cannot_be_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')\n")
    done = orpo("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 3
    assert "libcudart.so is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_never_prints_the_token():
    done = orpo("doctor", "--json", HF_TOKEN=TOKEN)
    assert json.loads(done.stdout)["hub"]["token"] is True
    assert TOKEN not in done.stdout + done.stderr
    without = orpo("doctor", HF_TOKEN="", HF_TOKEN_PATH="/nonexistent/token")
    assert "hub token" in without.stdout
    assert "none; if you need one" in without.stdout


def test_a_missing_package_is_not_held_and_comes_with_its_command():
    (package,) = required_packages(["no-such-package-at-all>=1.2"])
    assert not package.satisfied
    assert package.installed is None
    assert package.command == f"{sys.executable} -m pip install 'no-such-package-at-all>=1.2'"


def test_requirements_of_other_platforms_and_of_optional_parts_are_told_apart():
    lines = ["pytest>=1", "nowhere; sys_platform == 'nothing'", "rich>=1; extra == 'pretty'", "typer; extra == 'other'"]
    assert [each.name for each in required_packages(lines)] == ["pytest"]
    assert [each.name for each in required_packages(lines, "pretty")] == ["rich"]


def test_every_optional_part_but_dev_is_shown():
    extras = set(metadata.metadata("orpo-cli").get_all("Provides-Extra"))
    assert extras - {"dev"} == EXTRAS.keys()
