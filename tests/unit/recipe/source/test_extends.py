"""Recipes that extend others: precedence, origins of values, and errors."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.recipe.load import LoadedRecipe, load_recipe
from orpo_cli.recipe.schema import EvalSplit
from orpo_cli.recipe.source.nodes import Origin

BASE = """\
model:
  model_name_or_path: a/b
lora:
  r: 8
  target_modules: [q_proj, v_proj]
dataset:
  train:
    path: x.jsonl
    columns: {chosen: good, rejected: bad}
training:
  beta: 0.1
  seed: 7
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    for name, text in files.items():
        path = Path(name.replace("__", "/") + ".yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def load(child: str, base: str = BASE, *overrides: str) -> LoadedRecipe:
    write(base=base, child=f"extends: base.yaml\n{child}")
    return load_recipe("child.yaml", overrides)


def problems(source: str = "child.yaml") -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source)
    return list(caught.value.problems)


def test_mappings_merge_lists_are_replaced_and_the_child_wins() -> None:
    recipe = load("lora: {target_modules: [k_proj]}\ntraining: {beta: 0.2}\ndataset: {train: {columns: {prompt: q}}}\n")
    assert recipe.recipe.lora is not None
    assert (recipe.recipe.lora.r, recipe.recipe.lora.target_modules) == (8, ["k_proj"])
    assert (recipe.recipe.training.beta, recipe.recipe.training.seed) == (0.2, 7)
    assert recipe.recipe.dataset.train[0].columns == {"chosen": "good", "rejected": "bad", "prompt": "q"}
    assert recipe.name == "child"


def test_one_source_and_a_list_of_sources_replace_each_other() -> None:
    several = load("dataset:\n  train:\n    - path: y\n    - path: z\n").recipe.dataset.train
    assert [source.path for source in several] == ["y", "z"]
    base = BASE.replace("  train:\n    path: x.jsonl\n    columns:", "  train:\n  - path: x.jsonl\n    columns:")
    (source,) = load("dataset: {train: {path: y}}\n", base).recipe.dataset.train
    assert (source.path, source.columns) == ("y", {})


def test_null_removes_an_inherited_value() -> None:
    loaded = load("lora: null\ntraining: {seed: null}\nname:\n")
    assert loaded.recipe.lora is None
    assert loaded.recipe.training.seed is None
    assert loaded.origin_kind("training.seed") == "default"


def test_null_is_the_same_as_a_missing_key() -> None:
    write(alone=BASE + "  optim: null\nmerge: null\nquantization:\nhub: {private: null}\n")
    loaded = load_recipe("alone.yaml")
    assert loaded.recipe.hub.private is True
    assert loaded.recipe.merge.max_shard_size == "5GB"
    assert loaded.recipe.training.optim is None
    assert {loaded.origin_kind(path) for path in ("hub.private", "merge", "training.optim")} == {"default"}


@pytest.mark.parametrize("line", ["sead: null", "training: {sead: null}", "lora: {rr: null}"])
def test_null_does_not_hide_a_misspelt_key(line: str) -> None:
    with pytest.raises(RecipeError, match="unknown key"):
        load(f"{line}\n")


def test_a_chain_of_recipes_in_several_directories() -> None:
    write(
        shared__base=BASE,
        shared__llama="extends: base.yaml\ntraining: {beta: 0.2}\nlora: {r: 4}\n",
        mine__child="extends: ../shared/llama.yaml\ntraining: {seed: 1}\n",
    )
    loaded = load_recipe("mine/child.yaml")
    assert loaded.recipe.training.model_dump(exclude_none=True) == {"beta": 0.2, "seed": 1}
    assert [file.display_name for file in loaded.files] == ["mine/child.yaml", "shared/llama.yaml", "shared/base.yaml"]
    paths = ("training.seed", "lora.r", "lora.target_modules", "model.model_name_or_path")
    assert [str(loaded.source_map.origin(path)) for path in paths] == [
        "mine/child.yaml:2", "shared/llama.yaml:3", "shared/base.yaml:5", "shared/base.yaml:2",
    ]  # fmt: skip


def test_a_shipped_recipe_is_extended_by_its_name_and_finds_its_data() -> None:
    write(child="extends: quickstart\nname: mine\n")
    loaded, shipped = load_recipe("child.yaml"), load_recipe("quickstart")
    assert loaded.recipe.training == shipped.recipe.training
    recipe_directory, current = loaded.search_directories("dataset.train[0].path")
    assert (recipe_directory / loaded.recipe.dataset.train[0].path).is_file()
    assert current == Path.cwd()


def test_a_file_has_precedence_over_a_shipped_recipe_of_the_same_name() -> None:
    write(child="extends: quickstart\n")
    Path("quickstart").write_text(BASE)
    assert load_recipe("child.yaml").recipe.training.seed == 7


def test_a_path_is_searched_in_the_directory_of_the_file_that_has_it() -> None:
    write(shared__base=BASE, mine__child="extends: ../shared/base.yaml\ndataset: {eval: {path: y.jsonl}}\n")
    loaded = load_recipe("mine/child.yaml", ["model.model_name_or_path=tiny"])
    assert loaded.search_directories("dataset.train[0].path") == (Path("shared").absolute(), Path.cwd())
    assert loaded.search_directories("dataset.eval[0].path") == (Path("mine").absolute(), Path.cwd())
    assert loaded.search_directories("model.model_name_or_path") == (Path.cwd(), Path("mine").absolute())


def test_standard_input_extends_from_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    write(base=BASE)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"extends: base.yaml\ntraining: {seed: 1}\n")))
    loaded = load_recipe("-")
    assert (loaded.recipe.training.seed, loaded.recipe.training.beta) == (1, 0.1)


def test_an_override_is_applied_last_to_inherited_values_too() -> None:
    loaded = load("training: {beta: 0.2}\n", BASE, "training.beta=0.3", "dataset.train.columns.chosen=best")
    assert loaded.recipe.training.beta == 0.3
    assert loaded.recipe.dataset.train[0].columns == {"chosen": "best", "rejected": "bad"}
    assert loaded.origin_kind("dataset.train[0].columns.chosen") == "override"
    with pytest.raises(UsageError, match="extends cannot be overridden"):
        load("", BASE, "extends=other.yaml")


def test_an_error_names_the_file_of_the_value() -> None:
    write(
        base=BASE.replace("beta: 0.1", "betta: 0.1"), child="extends: base.yaml\nlora: {r: x}\ntraining: {seed: 2.5}\n"
    )
    assert [problem.location() for problem in problems()] == [
        "child.yaml:2:8: lora.r", "child.yaml:3:12: training.seed", "base.yaml:11:3: training.betta",
    ]  # fmt: skip


def test_invalid_yaml_in_a_parent_names_the_parent() -> None:
    write(base="model: [\n", child="extends: base.yaml\n")
    assert problems()[0].location() == "base.yaml:2:1"


def test_a_parent_that_is_not_text_is_named_with_the_position() -> None:
    write(child="extends: bytes.yaml\n")
    Path("bytes.yaml").write_bytes(b"model:\r\n  dtype: \xff\xfe\n")
    assert problems()[0].location() == "bytes.yaml:2:10"
    assert "ff is not UTF-8" in problems()[0].message


def test_a_rule_broken_by_two_files_together_names_a_line() -> None:
    write(base=BASE + "  fp16: true\n", child="extends: base.yaml\ntraining: {bf16: true}\n")
    assert problems()[0].location() == "base.yaml:13:3: training.fp16"


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ("none.yaml", "there is no recipe none.yaml"),
        ("quickstrat", "there is no recipe quickstrat"),
        (".", "cannot be read"),
        ("../child", "there is no recipe"),
        ("[a, b]", "must be the path"),
        ("7", "must be the path"),
        ("''", "must be the path"),
    ],
)
def test_a_missing_parent_is_reported_with_the_line_of_the_child(parent: str, words: str) -> None:
    write(child=f"name: x\nextends: {parent}\n")
    (problem,) = problems()
    assert words in problem.message
    assert problem.location() == "child.yaml:2:1: extends"


def test_a_cycle_of_recipes_is_refused_and_listed() -> None:
    write(child="extends: a.yaml\n", a="extends: b.yaml\n", b="name: x\nextends: ./a.yaml\n")
    (problem,) = problems()
    assert problem.message == "recipes extend each other in a cycle: a.yaml → b.yaml → a.yaml."
    assert problem.location() == "b.yaml:2:1: extends"


def test_a_long_chain_is_refused() -> None:
    write(**{f"r{number}": f"extends: r{number + 1}.yaml\n" for number in range(40)})
    (problem,) = problems("r0.yaml")
    assert (problem.code, problem.file) == ("extends-too-deep", "r15.yaml")


def test_eval_of_another_kind_replaces_that_of_the_parent() -> None:
    split, source = "dataset: {eval: {test_size: 0.1}}\n", "dataset: {eval: {path: y, split: test}}\n"
    for parent, child in ((split, source), (source, split)):
        write(base=BASE.replace("dataset:\n", parent.replace("{eval", "\n  eval").removesuffix("}\n") + "\n"))
        write(child=f"extends: base.yaml\n{child}", same=child + BASE.replace("dataset:", "#").replace("  train", "#"))
        held_out = load_recipe("child.yaml").recipe.dataset.eval
        assert held_out is not None
        assert isinstance(held_out, list) == (child == source)
    loaded = load(
        "dataset: {eval: {split: train}}\n", BASE.replace("dataset:", "dataset:\n  eval: {path: y, split: test}")
    )
    assert isinstance(loaded.recipe.dataset.eval, list)
    assert (loaded.recipe.dataset.eval[0].path, loaded.recipe.dataset.eval[0].split) == ("y", "train")


def test_a_source_together_with_test_size_names_both_lines() -> None:
    write(base=BASE.replace("dataset:", "dataset:\n  eval: {path: y, split: test}"))
    write(child="extends: base.yaml\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe("child.yaml", ["dataset.eval.test_size=0.1"])
    assert [(problem.code, problem.location()) for problem in caught.value.problems] == [
        ("split-and-source", "base.yaml:7:10: dataset.eval.path"),
        ("split-and-source", "base.yaml:7:19: dataset.eval.split"),
    ]
    assert "test_size (--set)" in caught.value.problems[0].message
    assert isinstance(load_recipe("child.yaml", ["dataset.eval={test_size: 0.1}"]).recipe.dataset.eval, EvalSplit)


def test_the_origin_of_a_value_is_known() -> None:
    loaded = load("training: {seed: 1}\n", BASE, "lora.r=4")
    assert loaded.source_map.origin("training.seed") == Origin("child.yaml", 2, 12)
    assert loaded.source_map.origin("training.beta") == Origin("base.yaml", 11, 3)
    assert loaded.source_map.origin("lora.r") == Origin("--set")
    assert loaded.source_map.origin("training.optim") is None
