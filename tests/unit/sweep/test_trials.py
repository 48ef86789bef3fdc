"""Trials: names that say what differs, and the arguments of --set."""

from __future__ import annotations

from pathlib import Path

from orpo_cli.recipe.source.nodes import plain_values
from orpo_cli.recipe.source.overrides import ORIGIN
from orpo_cli.recipe.source.yaml_reader import read_value
from orpo_cli.sweep.trials import name_trials, short_keys


def names(*combinations: dict[str, object]) -> list[str]:
    return [each.name for each in name_trials(combinations)]


def test_names_have_the_values_and_the_shortest_keys() -> None:
    assert names({"training.learning_rate": 1e-5, "training.beta": 0.1}) == ["learning_rate=1e-5,beta=0.1"]
    assert names({"training.learning_rate": 7e-4, "lora.r": 8}) == ["learning_rate=0.0007,r=8"]
    assert names({"training.bf16": True, "training.lr_scheduler_type": "cosine"}) == [
        "bf16=true,lr_scheduler_type=cosine"
    ]


def test_keys_of_the_same_name_are_told_apart() -> None:
    assert short_keys(["dataset.train.path", "dataset.eval.path", "training.beta"]) == {
        "dataset.train.path": "train.path",
        "dataset.eval.path": "eval.path",
        "training.beta": "beta",
    }


def test_a_name_is_safe_in_a_shell_and_unique() -> None:
    found = names(
        {"model.model_name_or_path": "org/model a"},
        {"model.model_name_or_path": "other/model a"},
        {"model.model_name_or_path": "../x;rm"},
    )
    assert found == ["model_name_or_path=model-a", "model_name_or_path=model-a,2", "model_name_or_path=x-rm"]
    long = names({f"training.argument_number_{number}": 1.5 for number in range(20)})[0]
    assert len(long) <= 120
    assert "/" not in long
    assert name_trials([{"lora.r": 8}], taken=["r=8"])[0].name == "r=8,2"


def test_a_name_of_any_script_fits_into_a_file_name(tmp_path: Path) -> None:
    """A file name may have 255 bytes, and a character of Chinese has three."""
    keys = [f"dataset.train[{index}].path" for index in range(4)]
    combinations: list[dict[str, object]] = [
        dict.fromkeys(keys, f"{'偏好数据' * 10}{number}.jsonl") for number in range(3)
    ]
    found = names(*combinations)
    assert len(set(found)) == 3
    for name in found:
        (tmp_path / f"{name}.log").touch()


def test_overrides_have_the_exact_values() -> None:
    values = {
        "training.learning_rate": 1e-5,
        "lora.target_modules": ["q_proj", "v_proj"],
        "lora": None,
        "name.x": "a: b",
        "model.chat_template": '{{ a }}:\n  "b"\n',
    }
    trial = name_trials([values])[0]
    read = [plain_values(read_value(each.partition("=")[2], ORIGIN)) for each in trial.overrides()]
    assert read == list(values.values())
