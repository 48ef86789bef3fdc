"""Warnings about the data: those of a plan, and those of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from support.tiny import pairs, tiny_llama, tiny_tokenizer, write_recipe

from orpo_cli import evaluate, plan, train
from orpo_cli.errors import DataError, RecipeError, UsageError

TEXT = {"prompt": "What is red?", "chosen": "A colour.", "rejected": "A colour."}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of a tiny model, with a cache of its own."""
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    return {"model": tiny_llama(), "tokenizer": tiny_tokenizer()}


def recipe(folder: Path) -> dict[str, Any]:
    training = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 128}
    return {"output_dir": str(folder / "run"), "lora": {"r": 2}, "training": training}


def rows(dropped: int) -> datasets.Dataset:
    """12 pairs, after pairs that are dropped."""
    good = [{name: row[name][-1]["content"] for name in TEXT} for row in pairs(12)]
    return datasets.Dataset.from_list([TEXT] * dropped + good)


def test_dropped_rows_are_a_warning_of_the_plan_and_of_the_run_and_named_by_their_argument(
    tmp_path: Path, model: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    objects = {"train_dataset": rows(5), "eval_dataset": rows(1), **model}
    planned = plan(recipe(tmp_path), **objects)
    assert planned.estimate is not None
    assert "`plan(…).data` shows why" in planned.estimate["data_notes"][0]
    first, second, leaked, few = planned.warnings
    assert (first.code, first.path, first.severity) == ("rows-dropped", "dataset.train", "warning")
    assert "5 of 17 rows are dropped: 5 identical: the two completions are identical; train_dataset:1," in first.message
    assert "1 of 13 rows" in second.message
    assert "eval_dataset:1." in second.message
    assert (leaked.code, leaked.message[:42]) == ("prompts-held-out", "the prompts of 12 train pairs occur in eva")
    assert leaked.remedy == "dataset.rules.leaked: true drops these pairs."
    assert (few.code, few.path) == ("few-held-out-pairs", "dataset.eval")
    assert few.message.startswith("only 12 eval pairs: ")
    assert planned.data["dropped"] == {"identical": 6}
    train_source = planned.data["sources"][0]
    assert train_source["examples"]["identical"] == ["train_dataset:1", "train_dataset:2", "train_dataset:3"]
    assert train_source["kept"] == 12
    all_dropped = planned.dropped()
    assert [(row["part"], row["row"]) for row in all_dropped[:2]] == [
        ("train", "train_dataset:1"),
        ("train", "train_dataset:2"),
    ]
    assert len(all_dropped) == 6
    assert all_dropped[0]["reason"] == "identical"
    assert all_dropped[0]["texts"][1] == all_dropped[0]["texts"][2]
    assert [pair["row"] for pair in planned.pairs(first=2)] == ["train_dataset:6", "train_dataset:7"]
    assert [pair["row"] for pair in planned.pairs(first=1, part="eval")] == ["eval_dataset:2"]
    held_out, of_train = planned.pairs("eval_dataset:2", 0)[::-1]
    assert (held_out["part"], of_train["part"]) == ("eval", "train")
    assert objects["train_dataset"][5]["prompt"] in "".join(span.text for span in of_train["prompt"])
    kept, dropped = planned.pairs("train_dataset:3", "train_dataset:6")
    assert (kept["row"], dropped["row"]) == ("train_dataset:6", "train_dataset:3")
    assert dropped["dropped"].startswith("row train_dataset:3: no pair, because the row is dropped as identical")
    with pytest.raises(UsageError, match="there is no pair of this number or row name"):
        planned.pairs("train_dataset:99")
    run = train(recipe(tmp_path), **objects)
    assert [each.code for each in run.warnings] == [each.code for each in planned.warnings]
    assert [each.remedy for each in run.warnings] == [each.remedy for each in planned.warnings]
    assert [each["message"] for each in run.record["warnings"]] == [each.message for each in run.warnings]
    assert run.warnings[0].message.startswith("dataset.train: dataset in memory")
    assert run.warnings[0].message.endswith(first.message)
    assert capfd.readouterr() == ("", "")


def test_truncated_pairs_are_a_warning(tmp_path: Path, model: dict[str, Any]) -> None:
    overrides = {"training.max_length": 20}
    (warning,) = plan(recipe(tmp_path), overrides=overrides, train_dataset=rows(0), **model).warnings
    assert warning.code == "pairs-truncated"
    assert "training.max_length=" in warning.message


def test_data_without_a_usable_pair_is_a_warning_of_the_plan(tmp_path: Path, model: dict[str, Any]) -> None:
    nothing = datasets.Dataset.from_list([TEXT] * 3)
    planned = plan(recipe(tmp_path), train_dataset=nothing, **model)
    (warning,) = planned.warnings
    assert warning.code == "data-refused"
    assert warning.message.startswith("no usable train pair is left of 3 rows")
    assert warning.message.endswith("`train` will refuse it.")
    with pytest.raises(DataError, match="no usable train pair is left"):
        _ = planned.data


def test_a_dataset_without_rows_is_refused_with_a_remedy_of_python(tmp_path: Path, model: dict[str, Any]) -> None:
    empty = rows(0).filter(lambda _: False)
    for datasets_ in ({"train_dataset": empty}, {"train_dataset": rows(0), "eval_dataset": empty}):
        name = list(datasets_)[-1]
        (warning,) = plan(recipe(tmp_path), **datasets_, **model).warnings
        assert warning.message == f"{name}: the dataset has no rows. `train` will refuse it."
        with pytest.raises(DataError, match=f"^{name}: the dataset has no rows") as caught:
            train(recipe(tmp_path), **datasets_, **model)
        assert caught.value.remedy == "Check the filter or the split that made it."
    with pytest.raises(DataError, match=r"^data: the dataset has no rows"):
        evaluate(model["model"], empty, tokenizer=model["tokenizer"], max_length=64)


def test_the_text_of_a_warning_has_no_list_on_its_line(tmp_path: Path, model: dict[str, Any]) -> None:
    unknown = datasets.Dataset.from_list([{"foo": "a", "bar": "b"}] * 3)
    (warning,) = plan(recipe(tmp_path), train_dataset=unknown, **model).warnings
    assert warning.text().endswith("Reshape the rows to a known format. [data-refused]")
    assert "\n    preference: chosen and rejected" in str(warning.remedy)


def test_held_out_pairs_of_the_data_that_a_dataset_replaces_are_a_warning(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    write_recipe(tmp_path)
    objects = {"train_dataset": rows(0), **model}
    own = {**recipe(tmp_path), "dataset": {"train": {"path": str(tmp_path / "train.jsonl")}}}
    own["dataset"]["eval"] = {"path": str(tmp_path / "heldout.jsonl")}

    def codes(sections: dict[str, Any], **more: Any) -> list[str]:
        found = [each.code for each in plan(sections, **objects, **more).warnings]
        return [code for code in found if code not in ("few-held-out-pairs", "prompts-held-out")]

    assert codes(own) == ["held-out-of-recipe"]
    assert codes(own, eval_dataset=rows(0)) == []
    assert codes(own, overrides={"dataset.eval": {"test_size": 2}}) == []
    assert codes({**own, "dataset": {"eval": own["dataset"]["eval"]}}) == []
    with pytest.raises(RecipeError, match="held-out-of-recipe"):
        plan(own, strict=True, **objects)
    warning, _ = train(own, **objects).warnings
    assert "heldout.jsonl), not of train_dataset." in warning.message
