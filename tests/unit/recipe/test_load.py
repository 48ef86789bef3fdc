"""Recipe loading: files, overrides, and the problems of an invalid recipe."""

from __future__ import annotations

import cProfile
import io
import pstats
from pathlib import Path

import pytest

from orpo_cli.errors import Problem, RecipeError, UsageError
from orpo_cli.estimate.batching import random_order
from orpo_cli.recipe.load import load_recipe

GOOD = "model:\n  model_name_or_path: a/b\ndataset:\n  train:\n    path: x.jsonl\n"


def write(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    return str(path)


def problems(folder: Path, text: str, *overrides: str) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return {problem.path: problem for problem in caught.value.problems}


def test_only_model_and_dataset_are_required(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, GOOD))
    assert loaded.name == "r"
    assert loaded.recipe.dataset.train[0].path == "x.jsonl"
    assert set(problems(tmp_path, "name: x\n")) == {"model", "dataset"}


def test_all_problems_are_reported_at_once_with_line_and_remedy(tmp_path: Path) -> None:
    text = GOOD + (
        "learning_rate: 1e-5\n"  # line 6
        "quantizaton: {load_in_4bit: true}\n"
        "training:\n"
        '  learning_rate: "5e-6"\n'
        "  evaluation_strategy: steps\n"
        "  bf16: yes\n"
        "  optim: adamw_8bitt\n"
        "  seed: 1.5\n"
    )
    found = problems(tmp_path, text)
    assert {path: problem.line for path, problem in found.items()} == {
        "learning_rate": 6, "quantizaton": 7, "training.learning_rate": 9, "training.evaluation_strategy": 10,
        "training.bf16": 11, "training.optim": 12, "training.seed": 13,
    }  # fmt: skip
    remedies = {path: problem.remedy for path, problem in found.items()}
    assert remedies["learning_rate"] == "It belongs in `training`: `training.learning_rate`."
    assert remedies["quantizaton"] == "Did you mean `quantization`?"
    assert remedies["training.learning_rate"] == "Remove the quotes."
    assert found["training.evaluation_strategy"].severity == "warning"
    assert "read as `training.eval_strategy: steps`" in found["training.evaluation_strategy"].message
    assert remedies["training.bf16"] == "Write true."
    assert remedies["training.optim"] == "Did you mean `adamw_8bit`?"
    assert all(str(tmp_path / "r.yaml") in problem.text() for problem in found.values())


@pytest.mark.parametrize(
    ("more", "path", "words"),
    [
        ("quantization: {load_in_4bit: true}\n", "quantization", "cannot be trained"),
        ("quantization: {}\nlora: {}\n", "quantization", "enables neither"),
        ("quantization: {load_in_4bit: true, load_in_8bit: true}\nlora: {}\n", "quantization.load_in_8bit", "exclude"),
        ("training: {bf16: true, fp16: true}\n", "training.fp16", "exclude"),
        ("training: {eval_strategy: steps}\n", "training.eval_strategy", "dataset.eval is not set"),
        (
            "training: {load_best_model_at_end: true, save_strategy: epoch}\n",
            "training.load_best_model_at_end",
            "dataset.eval is not set",
        ),
        ("training: {hub_token: abc}\n", "training.hub_token", "contains a token"),
        (
            "training: {report_to: wandb, run_name: hf_abcdefghijklmnopqrstuvwxyz0123456789}\n",
            "training.run_name",
            "Hugging Face token",
        ),
        ("lora: {lora_dropout: 0.1}\ntraining: {disable_dropout: true}\n", "lora.lora_dropout", "no effect"),
        ("lora: {layers_to_transform: [0]}\n", "lora.layers_to_transform", "list of names"),
    ],
)
def test_conflicting_settings_are_errors(tmp_path: Path, more: str, path: str, words: str) -> None:
    assert words in problems(tmp_path, GOOD + more)[path].message


def test_a_prompt_must_leave_tokens_for_the_completion(tmp_path: Path) -> None:
    text = GOOD + "  max_prompt_length: 512\ntraining: {max_length: 512}\n"
    assert problems(tmp_path, text)["dataset.max_prompt_length"].line == 6


def test_a_seed_is_one_that_its_users_take(tmp_path: Path) -> None:
    seed = f"training:\n  seed: {2**32}\n"
    assert problems(tmp_path, GOOD + seed)["training.seed"].message == "must be below 4294967296, but is 4294967296."
    load_recipe(write(tmp_path, GOOD), [f"training.seed={2**32 - 1}"])
    largest = 2**63 - 1  # of a recipe
    load_recipe(write(tmp_path, GOOD), [f"training.data_seed={largest}", f"dataset.shuffle_seed={largest}"])
    assert sorted(random_order(4, largest)) == [0, 1, 2, 3]


def test_overrides_are_yaml_and_have_precedence(tmp_path: Path) -> None:
    overrides = [
        "training.beta=5e-2",
        "lora.r=4",
        "dataset.eval={test_size: 0.1}",
        "model.dtype=bfloat16",
        "training.lr_scheduler_kwargs={num_cycles: 1}",
    ]
    loaded = load_recipe(write(tmp_path, GOOD + "training:\n  beta: 0.1\n  seed: 1\n"), overrides)
    assert loaded.recipe.training.beta == 0.05
    assert loaded.recipe.lora is not None
    assert loaded.recipe.lora.r == 4
    origins = {
        path: loaded.origin_kind(path) for path in ("training.beta", "training.seed", "training.optim", "lora.r")
    }
    assert origins == {
        "training.beta": "override",
        "training.seed": "recipe",
        "training.optim": "default",
        "lora.r": "override",
    }


def test_an_override_changes_a_list_item_and_null_removes_a_value(tmp_path: Path) -> None:
    text = "model: {model_name_or_path: a}\ndataset: {train: [{path: x}, {path: y}]}\nlora: {r: 2}\n"
    loaded = load_recipe(write(tmp_path, text), ["dataset.train.1.path=z", "lora=null"])
    assert [source.path for source in loaded.recipe.dataset.train] == ["x", "z"]
    assert loaded.recipe.lora is None


def test_an_invalid_override_is_reported(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, "training.lerning_rate=1")
    assert found["training.lerning_rate"].file == "--set"
    for bad in ("training.beta", "=1", "name.x=1", "dataset.train.path.y=1"):
        with pytest.raises(UsageError, match="--set"):
            load_recipe(write(tmp_path, GOOD + "name: n\n"), [bad])


def test_a_recipe_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(GOOD.encode())))
    assert load_recipe("-").file == "<stdin>"


def test_the_error_about_a_missing_file_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(str(tmp_path / "none.yaml"))
    assert "orpo init" in str(caught.value.remedy)


def test_the_design_example_is_valid(tmp_path: Path) -> None:
    """The sections and names of the design, which all commands support."""
    text = GOOD + (
        "extends: null\nquantization: {load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16}\n"
        "lora: {r: 16, lora_alpha: 32, lora_dropout: 0.05, target_modules: all-linear}\n"
        "training: {optim: paged_adamw_8bit, eval_steps: 0.2, report_to: [wandb], warmup_steps: 10}\n"
        "engine: {fast_path: auto, max_tokens_per_microbatch: auto}\nlaunch: {num_processes: auto, strategy: auto}\n"
        "merge: {dtype: bfloat16, max_shard_size: 5GB}\nexport: {formats: [safetensors]}\nhub: {repo_id: null, private: true}\n"
    )
    assert load_recipe(write(tmp_path, text)).recipe.merge.max_shard_size == "5GB"


def unknown(folder: Path, count: int) -> dict[str, Problem]:
    return problems(folder, GOOD + "training:\n" + "".join(f"  lerning_rate_{each}: 1\n" for each in range(count)))


def test_thousands_of_unknown_keys_are_all_reported(tmp_path: Path) -> None:
    found = unknown(tmp_path, 8000)
    assert len(found) == 8000
    assert found["training.lerning_rate_0"].remedy == "Did you mean `learning_rate`?"


def test_the_time_is_linear_in_the_number_of_unknown_keys(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(unknown, tmp_path, count)
        return int(vars(pstats.Stats(profile))["total_calls"])

    calls(1)  # what is imported and compiled once
    assert calls(1000) < 5 * calls(250)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("model: {model_name_or_path: a/b, torch_dtype: bfloat16}", "dtype"),
        ("model: {base_model: a/b}", "model_name_or_path"),
        ("lora: {lora_r: 8}", "r"),
        ("lora: {rank: 8}", "r"),
    ],
)
def test_a_key_of_another_tool_is_answered_with_its_name_here(written: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"{written}\ndataset: {{train: {{path: x.jsonl}}}}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(file))
    assert f"The name here is `{name}`." in [problem.remedy for problem in caught.value.problems]


def test_the_error_about_a_tab_recommends_spaces(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model:\n\tmodel_name_or_path: a/b\n")
    with pytest.raises(RecipeError, match=r"r.yaml:2:1: .*Indent with spaces"):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("key", "written", "number"),
    [
        ("training.max_steps", "1_000", "1000"), ("training.max_steps", "1,000", "1000"),
        ("training.max_steps", "1 000", "1000"), ("training.max_steps", "2k", "2000"),
        ("training.learning_rate", "5e−6", "5e-06"), ("training.learning_rate", "5e–6", "5e-06"),
        ("training.learning_rate", "0,00001", "1e-05"), ("training.learning_rate", "10^-5", "1e-05"),
        ("training.warmup_steps", "10%", "0.1"), ("training.weight_decay", "0,1", "0.1"),
        ("training.max_steps", "many", None), ("training.max_steps", "1.5k items", None), ("training.max_steps", "0,5", None),
    ],
)  # fmt: skip
def test_a_text_that_people_read_as_a_number_has_the_number_in_its_remedy(
    key: str, written: str, number: str | None, tmp_path: Path
) -> None:
    remedy = problems(tmp_path, GOOD + f"training:\n  {key.partition('.')[2]}: {written}\n")[key].remedy
    assert remedy == (number and f"Write {number}: a number has only digits, a point and an exponent.")


@pytest.mark.parametrize(
    ("text", "path", "remedy"),
    [
        ("model:\n  model_name_or_path: a/b\ndataset:\n  train:\n    path:p.jsonl\n", "dataset.train", "`path: p.jsonl`"),
        ("model:\n  model_name_or_path: a/b\ndataset: {train: {path:p.jsonl}}\n", "dataset.train.path:p.jsonl", "`path: p.jsonl`"),
        ("model:\n  model_name_or_path: a/b\ndataset:\n  train:\n    - path:p.jsonl\n", "dataset.train[0]", "`path: p.jsonl`"),
        ("model:\n  model_name_or_path:a/b\ndataset:\n  train:\n    path: x\n", "model", "`model_name_or_path: a/b`"),
        (GOOD + "    columns: {chosen:good}\n", "dataset.train.columns.chosen:good", "`chosen: good`"),
        (GOOD + "training:\n  seed：1\n", "training", "`seed: 1`"),
        (GOOD + "training: {seed:1}\n", "training.seed:1", "`seed: 1`"),
        (GOOD + "training:\n  - seed:1\n", "training", None),
    ],
)  # fmt: skip
def test_a_colon_without_a_space_is_named(text: str, path: str, remedy: str | None, tmp_path: Path) -> None:
    assert problems(tmp_path, text)[path].remedy == (remedy and f"Write a space after the colon: {remedy}.")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://huggingface.co/org/name", "Write NAMESPACE/NAME: org/name."),
        ("https://huggingface.co/org/name/tree/main", "Write NAMESPACE/NAME: org/name."),
        ("huggingface.co/org/name/", "Write NAMESPACE/NAME: org/name."),
        ("https://hf.co/org/na.me/blob/v2/config.json?x=1", "Write NAMESPACE/NAME: org/na.me, and set model.model_revision: v2."),
        ("hf://org/name@v2", "Write NAMESPACE/NAME: org/name, and set model.model_revision: v2."),
        ("git@hf.co:org/name.git", "Write NAMESPACE/NAME: org/name."),
        ("https://huggingface.co/datasets/org/name", "It is the address of one of the hub's datasets."),
        ("https://example.com/model.safetensors", "Write the id of a model on the hub"),
    ],
)  # fmt: skip
def test_the_address_of_a_model_has_its_id_in_the_remedy(address: str, remedy: str, tmp_path: Path) -> None:
    problem = problems(tmp_path, GOOD.replace("a/b", address))["model.model_name_or_path"]
    assert problem.code == "model-address"
    assert str(problem.remedy).startswith(remedy)


@pytest.mark.parametrize(
    ("text", "path", "remedy"),
    [
        (GOOD + "training:\n  bf16: 'true'\n", "training.bf16", "Remove the quotes."),
        (GOOD + "lora: None\n", "lora", "Write null, or remove the key."),
        (GOOD + "training:\n  max_steps: None\n", "training.max_steps", "Write null, or remove the key."),
        (GOOD + "name: 2024\n", "name", 'Put it in quotes: "2024".'),
        (GOOD + "name: true\n", "name", 'Put it in quotes: "true".'),
        (GOOD + "training.seed: 1\n", "training.seed", "Keys are nested: write `seed` below `training:`, indented."),
        (GOOD + "training:\n  seed = 1\n", "training", "Write a colon and a space: `seed: 1`."),
        (
            GOOD.replace("train:\n    path: x.jsonl", "train: pairs.jsonl"),
            "dataset.train",
            "Write it as the path of a source: `{path: pairs.jsonl}`.",
        ),
    ],
)
def test_common_slips_have_a_remedy(text: str, path: str, remedy: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text)[path].remedy == remedy


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://huggingface.co/datasets/org/name", "Write NAMESPACE/NAME: path: org/name."),
        ("huggingface.co/datasets/org/name/", "Write NAMESPACE/NAME: path: org/name."),
        ("https://huggingface.co/datasets/org/name/viewer", None),
        ("https://huggingface.co/datasets/org/name/tree/v2", "Write NAMESPACE/NAME: path: org/name and set revision: v2."),
        ("https://hf.co/datasets/org/name/blob/main/a/b.jsonl", "Write path: hf://datasets/org/name/a/b.jsonl."),
        ("https://hf.co/datasets/org/name/blob/v2/b.jsonl", "Write path: hf://datasets/org/name@v2/b.jsonl."),
        ("git@hf.co:datasets/org/name.git", "Write NAMESPACE/NAME: path: org/name."),
        ("https://huggingface.co/org/name", "It is the address of one of the hub's models. Write the id of a dataset"),
        ("https://huggingface.co/datasets/org/name/resolve/main/b.jsonl", None),
        ("hf://datasets/org/name", None),
        ("https://example.com/b.jsonl", None),
    ],
)  # fmt: skip
def test_the_address_of_a_dataset_has_its_id_in_the_remedy(address: str, remedy: str | None, tmp_path: Path) -> None:
    text = GOOD.replace("x.jsonl", address)
    if remedy is None:
        load_recipe(write(tmp_path, text), ())
        return
    problem = problems(tmp_path, text)["dataset.train.path"]
    assert problem.code == "dataset-address"
    assert str(problem.remedy).startswith(remedy)


def test_a_missing_recipe_is_answered_with_the_nearest_one_shipped_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstar2.yaml", "mine.yaml"):
        (tmp_path / name).write_text("model: {}\n")
    for name, nearest in {
        "quickstar": "`quickstart`",
        "quickstar.yaml": "quickstar2.yaml",
        "mine.yml": "mine.yaml",
    }.items():
        with pytest.raises(UsageError, match="no such recipe file") as caught:
            load_recipe(name)
        assert caught.value.remedy == f"Did you mean {nearest}?"
