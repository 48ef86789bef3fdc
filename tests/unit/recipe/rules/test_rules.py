"""Edge cases of the rules about data, model, adapter and hub. The simple cases are the examples of the problem codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.recipe_problems import MODEL, TRAIN, codes_and_paths, problems

from orpo_cli.data.formats.detect import COLUMNS
from orpo_cli.recipe.rules.data import SOURCE_COLUMNS


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"train": TRAIN, "eval": {"test_size": 1}}, set()),
        ({"train": TRAIN, "eval": {"test_size": 1.0}}, {("test-size", "dataset.eval.test_size")}),
        ({"train": [TRAIN, TRAIN]}, {("duplicate-source", "dataset.train[1].path")}),
        ({"train": [{**TRAIN, "split": "train[:9]"}, TRAIN]}, {("duplicate-source", "dataset.train[1].path")}),
        ({"train": [{**TRAIN, "split": "train[:9]"}, {**TRAIN, "split": "train[9:]"}]}, set()),
        ({"train": [{**TRAIN, "name": "a"}, {**TRAIN, "name": "b"}]}, set()),
        ({"train": [{**TRAIN, "columns": {"rejected": "a"}}, {**TRAIN, "columns": {"rejected": "b"}}]}, set()),
        ({"train": TRAIN, "eval": {**TRAIN, "split": "train[:5%]"}, "rules": {"leaked": True}}, set()),
        ({"train": {"path": "a/b"}, "eval": {"path": "a/b", "split": "test"}}, set()),
        ({"train": TRAIN, "eval": {**TRAIN, "split": "train[:5%]"}}, {("evaluates-on-train", "dataset.eval.path")}),
        (
            {"train": [{**TRAIN, "max_samples": 5}, {"path": "y", "max_samples": 5}], "eval": {"test_size": 10}},
            {("test-size-takes-all", "dataset.eval.test_size")},
        ),
        ({"train": [{**TRAIN, "max_samples": 5}, {"path": "y"}], "eval": {"test_size": 10}}, set()),
        ({"train": {**TRAIN, "weight_by": "score_margin", "columns": {"chosen": "good"}}}, set()),
        (
            {"train": TRAIN, "eval": {"path": "y", "weight_by": "score_margin", "columns": {"weight": "w"}}},
            {("two-pair-weights", "dataset.eval.weight_by")},
        ),
    ],
)
def test_rules_about_overlapping_sources(
    tmp_path: Path, dataset: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    found = {(each.code, each.path.replace("eval[0]", "eval")) for each in problems(tmp_path, dataset=dataset)}
    assert found == expected


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ({"promt": "question"}, "Did you mean `prompt`?"),
        ({"answer": "response"}, "write `response: answer`"),
        ({"xyz": "best"}, "Usual keys: prompt, chosen, rejected, response, helpfulness, weight."),
    ],
)
@pytest.mark.parametrize("part", ["train", "eval"])
def test_an_unknown_key_of_columns_is_named_with_its_line(
    tmp_path: Path, columns: dict[str, str], remedy: str, part: str
) -> None:
    dataset = {"train": TRAIN, part: {"path": "y", "columns": {"chosen": "good", **columns}}}
    (found,) = problems(tmp_path, dataset=dataset)
    assert (found.code, found.severity) == ("unknown-key", "error")
    assert found.path.endswith(f".columns.{next(iter(columns))}")
    assert found.line is not None
    assert remedy in str(found.remedy)


def test_the_keys_of_columns_are_the_names_of_the_formats() -> None:
    assert SOURCE_COLUMNS == COLUMNS


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {**MODEL, "dtype": "float16"}, "lora": {}}, set()),
        ({"model": {**MODEL, "dtype": "bfloat16"}, "training": {"bf16": True}}, set()),
        ({"model": {**MODEL, "dtype": "bfloat16"}, "lora": {}, "training": {"fp16": True}}, set()),
        ({"lora": {"target_modules": "all-linear", "exclude_modules": "(lm_head"}}, {("target-pattern", "lora.exclude_modules")}),
        ({"lora": {"lora_dropout": 0.1}}, set()),
        ({"model": {**MODEL, "chat_template": "tokeniser"}}, {("unknown-chat-template", "model.chat_template")}),
        ({"model": {**MODEL, "chat_template": "phi3"}}, set()),
        ({"model": {**MODEL, "chat_template": "my.jinja"}}, set()),
        ({"model": {**MODEL, "chat_template": "{{ messages }}"}}, set()),
        ({"model": {"model_name_or_path": "x.gguf", "model_revision": "v1"}}, {("revision-unused", "model.model_revision")}),
        ({"model": {**MODEL, "model_revision": "v1"}}, set()),
        ({"lora": {"lora_dropout": 0.0}, "training": {"disable_dropout": True}}, set()),
        ({"training": {"eval_on_start": True}}, {("no-eval-data", "training.eval_on_start")}),
        ({"training": {"eval_strategy": "no"}}, set()),
        ({"training": {"save_strategy": "best"}}, {("best-model-strategies", "training.save_strategy")}),
        ({"hub": {"repo_id": "me/model.git"}}, {("hub-repo-id", "hub.repo_id")}),
        ({"hub": {"repo_id": "me/Model_1.0-beta"}}, set()),
    ],
)  # fmt: skip
def test_rules_across_sections(tmp_path: Path, sections: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert codes_and_paths(tmp_path, **sections) == expected
