"""A dataset in memory: the options of the source that it replaces, and messages about it that a Python program can follow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.tiny import pairs, tiny_llama, tiny_tokenizer

from orpo_cli import evaluate, plan, train
from orpo_cli.errors import DataError, RecipeError, UsageError

COLUMNS = {"prompt": "question", "chosen": "good", "rejected": "bad"}
RENAMED = {column: name for name, column in COLUMNS.items()}
TRAINING = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 128}


@pytest.fixture
def dataset() -> datasets.Dataset:
    """Pairs whose columns no format has."""
    return datasets.Dataset.from_list(pairs(12)).rename_columns(COLUMNS)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a tiny model, with a cache of its own."""
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    return {"model": tiny_llama(), "tokenizer": tiny_tokenizer()}


def recipe(tmp_path: Path, **sections: Any) -> dict[str, Any]:
    return {"output_dir": str(tmp_path / "run"), "lora": {"r": 2}, "training": TRAINING, **sections}


def test_a_dataset_keeps_the_options_of_the_source_and_not_its_place(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    source = {"path": "org/data", "revision": "v1", "split": "test", "columns": COLUMNS, "weight": 0.5}
    written = recipe(tmp_path, dataset={"train": source, "eval": {"columns": COLUMNS}})
    objects = {"train_dataset": dataset.select(range(8)), "eval_dataset": dataset.select(range(8, 12)), **model}
    planned = plan(written, **objects)
    (found,), (held_out,) = planned.plan.dataset.train, planned.plan.dataset.eval
    assert (found.columns, found.weight, found.revision, found.split) == (COLUMNS, 0.5, None, "train")
    assert (held_out.columns, held_out.weight) == (COLUMNS, 1.0)
    assert [each.code for each in planned.warnings] == ["few-held-out-pairs"]
    run = train(written, **objects)
    assert (run.status, run.evaluate()["pairs"]) == ("finished", 4)
    assert run.plan.why["dataset.train"].reason == "given in Python"
    page = run.report().read_text()
    assert "given in Python: model.model_name_or_path=a model in memory, dataset.train=a Dataset in memory" in page
    assert "changed on the command line" not in page


def test_a_dataset_keeps_the_options_of_a_recipe_file_and_overrides(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "model: {model_name_or_path: a/b}\ndataset: {train: {path: x.jsonl, max_samples: 8}, eval: {test_size: 2}}\n"
    )
    columns = "dataset.train.columns={prompt: question, chosen: good, rejected: bad}"
    (found,) = plan(file, overrides=[columns], train_dataset=dataset, **model).plan.dataset.train
    assert (found.columns, found.max_samples) == (COLUMNS, 8)
    assert plan(file, eval_dataset=dataset.rename_columns(RENAMED), **model).plan.dataset.eval[0].columns == {}


def test_several_sources_with_different_options_are_an_error_with_a_remedy_that_works(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    sources = [{"path": "a.jsonl", "columns": COLUMNS}, {"path": "b.jsonl", "weight": 2.0}]
    written = recipe(tmp_path, dataset={"train": sources})
    with pytest.raises(
        UsageError, match=r"train_dataset: .* 2 sources in dataset\.train .* \(columns, weight\)"
    ) as raised:
        plan(written, train_dataset=dataset, **model)
    assert 'overrides=["dataset.train=null"]' in str(raised.value.remedy)
    plain = dataset.rename_columns(RENAMED)
    planned = plan(written, overrides=["dataset.train=null"], train_dataset=plain, **model)
    assert planned.plan.dataset.train[0].columns == {}
    same = recipe(tmp_path, dataset={"train": [{**each, "columns": COLUMNS, "weight": 2.0} for each in sources]})
    assert plan(same, train_dataset=dataset, **model).plan.dataset.train[0].columns == COLUMNS


def test_unmapped_columns_are_a_warning_of_the_plan_and_an_error_whose_remedies_work(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    texts = dataset.map(lambda row: {name: row[name][0]["content"] for name in RENAMED}, features=_texts())
    written = recipe(tmp_path)
    (warning,) = plan(written, train_dataset=texts, **model).warnings
    assert (warning.code, warning.severity) == ("data-refused", "warning")
    assert warning.message.startswith("train_dataset: no row looks like preference data; the columns are question")
    assert "will refuse it" in warning.message
    with pytest.raises(DataError, match=r"^train_dataset: no row looks like") as raised:
        train(written, train_dataset=texts, **model)
    remedy = str(raised.value.remedy)
    assert remedy == warning.remedy
    mapping = re.search(r"`(columns: .*?)` in dataset\.train of the recipe", remedy)
    renamed = re.search(r"`train_dataset=(ds\.rename_columns\(.*?\))`", remedy)
    assert mapping is not None
    assert renamed is not None
    override = "dataset.train.columns=" + mapping[1].removeprefix("columns: ")
    assert plan(written, overrides=[override], train_dataset=texts, **model).warnings == ()
    assert plan(written, train_dataset=eval(renamed[1], {"ds": texts}), **model).warnings == ()


def test_columns_of_the_recipe_that_a_dataset_does_not_have_can_be_left_out(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    plain, written = dataset.rename_columns(RENAMED), recipe(tmp_path, dataset={"train": {"columns": COLUMNS}})
    with pytest.raises(DataError, match="train_dataset: columns: the data has no question") as raised:
        train(written, train_dataset=plain, **model)
    override = "dataset.train.columns=null"
    assert f'overrides=["{override}"]' in str(raised.value.remedy)
    assert plan(written, overrides=[override], train_dataset=plain, **model).warnings == ()


def test_an_evaluation_of_unmapped_columns_names_the_call_that_renames_them(
    dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=r"^data: no row looks like") as raised:
        evaluate(model["model"], dataset, tokenizer=model["tokenizer"], max_length=64)
    assert str(raised.value.remedy).startswith(f"Write `data=ds.rename_columns({RENAMED!r})`. ")


def test_columns_that_an_evaluation_cannot_guess_are_renamed_by_the_user(model: dict[str, Any]) -> None:
    words = {"said": "What is it?", "first": "It is rain.", "second": "I do not know."}
    unnamed = datasets.Dataset.from_list([{name: f"{at} {text}" for name, text in words.items()} for at in range(4)])
    with pytest.raises(DataError, match=r"^data: no row looks like") as raised:
        evaluate(model["model"], unnamed, tokenizer=model["tokenizer"], max_length=64)
    remedy = str(raised.value.remedy)
    assert "'BETTER': 'chosen', 'WORSE': 'rejected'})`, with the column of the better answer" in remedy
    assert "in the recipe" not in remedy


def test_problems_of_values_in_python_have_no_line(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as raised:
        plan(recipe(tmp_path, dataset={"train": {"path": "x", "colums": {}}}), overrides=["training.beta=-1"])
    shown = str(raised.value).splitlines()
    assert [line.split(": ")[0] for line in shown] == ["model", "dataset.train.colums", "training.beta"]
    with pytest.raises(RecipeError, match=r"^dataset\.train\.colums: unknown key"):
        plan(recipe(tmp_path, dataset={"train": {"colums": {}}}), train_dataset=dataset, **model)
    with pytest.raises(UsageError, match="dataset is a list"):
        plan(recipe(tmp_path, dataset=[]), train_dataset=dataset, **model)
    file = tmp_path / "mine.yaml"
    file.write_text("model: {model_name_or_path: a/b}\ndataset: {train: {path: x}}\ntraining:\n  beta: -1\n")
    with pytest.raises(RecipeError, match=rf"^{re.escape(str(file))}:4:3: training\.beta"):
        plan(file)


def test_a_plan_is_short_when_it_is_printed(tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]) -> None:
    planned = plan(recipe(tmp_path, name="mine"), train_dataset=dataset, **model)
    assert re.fullmatch(r"PlannedTraining\('mine', model='.*', 1 warning\)", repr(planned))


def test_few_steps_are_a_warning_of_the_plan_and_of_the_run(
    tmp_path: Path, dataset: datasets.Dataset, model: dict[str, Any]
) -> None:
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "max_length": 128, "save_strategy": "no"}
    written = recipe(tmp_path, training=training, dataset={"train": {"columns": COLUMNS}})
    (planned,) = (each for each in plan(written, train_dataset=dataset, **model).warnings if each.code == "few-steps")
    assert re.match(r"\d+ optimizer steps are few for a fine-tune; more epochs \(.*, now 2\)", planned.message)
    (found,) = (each for each in train(written, train_dataset=dataset, **model).warnings if each.code == "few-steps")
    assert found.message == f"training: {planned.message}"


def _texts() -> datasets.Features:
    return datasets.Features({name: datasets.Value("string") for name in RENAMED})


@pytest.mark.parametrize(
    ("sections", "argument"),
    [
        ({}, "train_dataset"),
        ({"dataset": {}}, "train_dataset"),
        ({"dataset": {"train": {"columns": RENAMED}}}, "train_dataset"),
        ({"dataset": {"train": {"path": "pairs.jsonl"}, "eval": [{"columns": RENAMED}]}}, "eval_dataset"),
    ],
)
def test_a_missing_dataset_names_its_argument(
    tmp_path: Path, model: dict[str, Any], sections: dict[str, Any], argument: str
) -> None:
    with pytest.raises(RecipeError, match=rf"Add `\w+`, or give {argument}\. \[missing-key\]"):
        plan(recipe(tmp_path, **sections), **model)
