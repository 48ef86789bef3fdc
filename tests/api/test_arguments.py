"""Arguments of a wrong kind: a UsageError that names the argument, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from support.tiny import pairs, tiny_llama, tiny_tokenizer
from transformers import TrainerCallback

from orpo_cli import Recipe, Run, plan, train
from orpo_cli.api.messages import in_python
from orpo_cli.errors import UsageError


def recipe(folder: Path) -> dict[str, Any]:
    """A recipe that is complete but for its data."""
    training = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 64}
    return {"output_dir": str(folder / "run"), "lora": {"r": 2}, "training": training}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": TrainerCallback()}, "callbacks: a TrainerCallback is not a list"),
        ({"callbacks": [object()]}, "callbacks: an object of the class object is not a TrainerCallback"),
        ({"callbacks": [int]}, "callbacks: the class int is not a TrainerCallback"),
        ({"overrides": "training.beta=0.2"}, "overrides: 'training.beta=0.2' is not a list"),
        ({"overrides": [0.2]}, "overrides: 0.2 is not a text"),
        ({"overrides": ["training.beta"]}, r"^overrides: training\.beta: must be of the form"),
        ({"resume": True}, 'resume=True: it is "never", "auto" or the path'),
        ({"allow_changed": "data"}, "allow_changed: 'data' is not a list"),
        ({"allow_changed": ["dta"]}, "allow_changed: 'dta' is no input"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_written(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        train(recipe(tmp_path), **arguments)
    assert raised.value.remedy
    assert "shell" not in raised.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_overrides_may_be_a_mapping() -> None:
    found = Recipe.load("quickstart", overrides={"training.beta": 0.7, "name": "1e5", "output_dir": Path("a b")})
    assert (found.sections.training.beta, found.name, found.output_dir.name) == (0.7, "1e5", "a b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for m in messages %}\n  {{ m['role'] }}: \"{{ m.content }}\"\n{% endfor %}", None),
        ("{{ a }}\n\n", None),
        ("{{ a }} \n\t{{ b }}", None),
        ("{{ a }}\n$${b}", "{{ a }}\n${b}"),
    ],
)
def test_a_text_with_line_breaks_in_a_mapping_of_overrides_is_unchanged(text: str, expected: str | None) -> None:
    found = Recipe.load("quickstart", overrides={"model.chat_template": text})
    assert found.sections.model.chat_template == (text if expected is None else expected)


def test_a_data_frame_is_answered_with_the_call_that_converts_it(tmp_path: Path) -> None:
    frame = pandas.DataFrame(pairs(12))
    with pytest.raises(UsageError, match="train_dataset: a DataFrame is not") as raised:
        plan(recipe(tmp_path), train_dataset=frame)
    call = "datasets.Dataset.from_pandas(df, preserve_index=False)"
    assert f"train_dataset={call}" in str(raised.value.remedy)
    assert len(eval(call, {"datasets": datasets, "df": frame})) == 12


def test_errors_name_arguments_of_python_and_a_failed_callback_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(TrainerCallback):
        """A callback with an error of the user."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """Fail."""
            raise ValueError("mine")

    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    model, tokenizer = tiny_llama(), tiny_tokenizer()

    def start(**arguments: Any) -> Run:
        rows = datasets.Dataset.from_list(pairs(12))
        return train(recipe(tmp_path), train_dataset=rows, model=model, tokenizer=tokenizer, **arguments)

    with pytest.raises(ValueError, match="mine"):
        start(callbacks=[Fails])
    assert start(callbacks=[TrainerCallback]).status == "finished"
    with pytest.raises(UsageError, match="already has a run") as raised:
        start()
    assert 'resume="auto"' in str(raised.value.remedy)
    assert 'overrides=["output_dir=DIR"]' in str(raised.value.remedy)
    assert "--" not in str(raised.value.remedy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Continue with the same command and `--resume auto`.", 'Continue with the same call and `resume="auto"`.'),
        ("Use another directory: --set output_dir=DIR.", 'Use another directory: overrides=["output_dir=DIR"].'),
        ("--resume runs/a/checkpoint-2: not a checkpoint", 'resume="runs/a/checkpoint-2": not a checkpoint'),
        ("Leave --resume out to start a run.", "Leave resume out to start a run."),
        ("accept: --allow-changed data --allow-changed weights.", 'accept: allow_changed=["data", "weights"].'),
        ("Give pairs with --data FILE.", "Give pairs with data=FILE."),
        ("Add --overwrite, or choose another -o.", "Add overwrite=True, or choose another output."),
        ("`orpo data` shows why", "`plan(…).data` shows why"),
        ("the output_dir of an `orpo train`", "the output_dir of a `train`"),
        ("pip install --no-deps llm-x, or `hf download --local-dir D`", None),
        ("`orpo merge ADAPTER --base MODEL`", None),
        ("  orpo generate runs/a --compare  compare the answers", None),
        ("add --force\n  orpo merge runs/a --force", "add force=True\n  orpo merge runs/a --force"),
    ],
)
def test_messages_of_the_command_line_name_what_python_has(text: str, expected: str | None) -> None:
    assert in_python(text) == (expected or text)
