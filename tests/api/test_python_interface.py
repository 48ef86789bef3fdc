"""The Python interface: a program trains, evaluates, generates, merges and reports, and its process stays as it was."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from support.tiny import pairs, tiny_llama, tiny_tokenizer, write_recipe
from transformers import TrainerCallback
from transformers.utils import logging

import orpo_cli
from orpo_cli import Answer, OrpoError, Recipe, Run, evaluate, generate, plan, train
from orpo_cli.errors import RecipeError, UsageError

TRAINING = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "max_length": 64,
    "logging_steps": 1,
}


class CountSteps(TrainerCallback):
    """Count of the steps."""

    steps = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count one."""
        self.steps += 1


def process_state() -> list[Any]:
    """What a library must not change in the process of its caller."""
    hooks = [sys.excepthook, sys.unraisablehook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    return [*hooks, logging.get_verbosity(), logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, CountSteps, Any, Any]:
    """A run of a model and data in memory, and these."""
    folder = tmp_path_factory.mktemp("api")
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dataset, counter = datasets.Dataset.from_list(pairs(12)), CountSteps()
    process = process_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_CACHE", str(folder / "cache"))
        run = train(
            {"output_dir": str(folder / "run"), "model": {}, "lora": {"r": 2}, "training": TRAINING},
            overrides=["lora.lora_alpha=4"],
            train_dataset=dataset,
            eval_dataset=dataset.select(range(4)),
            model=model,
            tokenizer=tokenizer,
            callbacks=[counter],
        )
    assert process_state() == process
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return run, counter, model, tokenizer


def test_a_training_of_objects_in_memory_is_an_ordinary_run(trained: tuple[Run, CountSteps, Any, Any]) -> None:
    run, counter, *_ = trained
    assert (run.status, counter.steps) == ("finished", 2)
    assert [line["step"] for line in run.metrics if "loss" in line] == [1, 2]
    assert run.plan.lora is not None
    assert run.plan.lora.lora_alpha == 4
    assert (run.result / "adapter_model.safetensors").is_file()
    assert Run(run.path).record["steps"] == 2
    assert Run(run.path).record["command"] == []


def test_records_name_a_dataset_in_memory_and_not_its_file_in_the_cache(
    trained: tuple[Run, CountSteps, Any, Any], tmp_path: Path
) -> None:
    run, _, model, tokenizer = trained
    sources = run.rundir.read_data_report()["sources"]
    assert [source["location"] for source in sources] == ["dataset in memory (12 rows)", "dataset in memory (4 rows)"]
    assert [source["path"] for source in sources] == [source["location"] for source in sources]
    page, card = run.report(tmp_path / "page.html").read_text(), (run.path / "README.md").read_text()
    file = str(run.plan.dataset.train[0].path)
    assert "dataset in memory (12 rows)" in page
    assert page.count(file) == 1  # in the recipe, which trains the same again
    assert "dataset in memory (12 rows)" in card
    assert Path(file).name not in card
    rows = datasets.Dataset.from_list(pairs(1))
    assert evaluate(model, rows, tokenizer=tokenizer, max_length=64)["data"] == "dataset in memory (1 row)"


def test_what_a_run_can_do_prints_nothing_and_leaves_the_process_alone(
    trained: tuple[Run, CountSteps, Any, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, before = trained[0], process_state()
    evaluation = run.evaluate()
    assert evaluation["pairs"] == 4
    assert run.evaluation["models"].keys() == {"base", "tuned"}
    texts, talk = ["What is red?", "Why?"], [{"role": "user", "content": "What is red?"}]
    held_out = run.generate(count=2, compare=True, max_new_tokens=4)
    assert len(held_out) == 2
    assert all(each.base is not None for each in held_out)
    assert [each["prompt"] for each in run.rundir.read_samples()["answers"]] == [each.prompt for each in held_out]
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, *talk]
    answers = run.generate([*texts, talk], compare=True, max_new_tokens=4)
    assert [answer.prompt for answer in answers] == [*texts, "What is red?"]
    assert answers[2].messages == talk
    assert held_out[0].messages is not None
    assert held_out[0].messages[-1]["content"] == held_out[0].prompt
    assert all(isinstance(answer, Answer) and answer.base is not None for answer in answers)
    merged = run.merge(dtype="float32")
    assert merged.record.verified
    assert repr(merged) == f"MergeResult({str(merged.output)!r}, verified=True)"
    page = run.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>")
    assert process_state() == before
    assert capfd.readouterr() == ("", "")


def test_models_in_memory_are_evaluated_and_answer(trained: tuple[Run, CountSteps, Any, Any]) -> None:
    run, _, model, tokenizer = trained
    rows = datasets.Dataset.from_list(pairs(4))
    found = evaluate(model, rows, tokenizer=tokenizer, max_length=64)["models"]["model"]
    base = run.evaluate()["models"]["base"]
    assert found["logps/chosen"] == pytest.approx(base["logps/chosen"], abs=1e-5)
    (answer,) = generate(model, "Why?", tokenizer=tokenizer, max_new_tokens=4)
    assert answer.base is None


def test_errors_are_those_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="learning_rte"):
        Recipe(
            model={"model_name_or_path": "a/b"}, dataset={"train": {"path": "x.jsonl"}}, training={"learning_rte": 1}
        )
    with pytest.raises(UsageError, match=r"no such recipe"):
        train(tmp_path / "absent.yaml")
    with pytest.raises(OrpoError, match="not a run"):
        generate(tiny_llama(), "Why?", tokenizer=tiny_tokenizer(), compare=True)
    with pytest.raises(UsageError, match="its tokenizer is missing"):
        plan({"dataset": {"train": {"path": "x.jsonl"}}}, model=tiny_llama())
    with pytest.raises(UsageError, match=r"merged_into: no such option"):
        orpo_cli.merge(tmp_path, merged_into="x")


def test_prompts_that_are_not_texts_or_conversations_are_refused(trained: tuple[Run, CountSteps, Any, Any]) -> None:
    _, _, model, tokenizer = trained
    message = {"role": "user", "content": "Why?"}
    for prompts, expected in (
        ([message], "list of messages"),
        ([[]], "list of messages"),
        ([[{"role": "user"}]], r"the content of prompts\[0\]\[0\] is missing"),
        ([[{"role": "user", "content": None}]], r"the content of prompts\[0\]\[0\] is missing"),
        (["Why?", [{"role": "usr", "content": "Why?"}]], r"prompts\[1\]\[0\] has the role 'usr'"),
        ([[{"role": "system", "content": "Be brief."}]], "ends with a message of the role system"),
        ([[message, {"role": "assistant", "content": "So."}]], r"prompts\[0\]: .* ends with .* role assistant"),
    ):
        with pytest.raises(UsageError, match=expected):
            generate(model, prompts, tokenizer=tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="its own messages"):
        generate(model, [[message]], tokenizer=tokenizer, system="Be brief.")


def test_a_model_in_training_mode_is_evaluated_without_dropout() -> None:
    model, modes = tiny_llama(), []
    model.train()
    model.model.layers[0].eval()
    before = [each.training for each in model.modules()]
    model.register_forward_pre_hook(lambda module, _: modes.append(any(each.training for each in module.modules())))
    generate(model, "Why?", tokenizer=tiny_tokenizer(), max_new_tokens=1)
    assert modes
    assert not any(modes)
    assert [each.training for each in model.modules()] == before


def test_the_values_of_a_recipe_are_those_of_python() -> None:
    text = "A smile 😀, a line\u2028separator"
    recipe = Recipe(
        name="1e5",
        model={"model_name_or_path": Path("a/b")},
        tags=[text],
        dataset={"train": {"path": "x.jsonl"}},
        training={"learning_rate": 1e-5},
    )
    assert (recipe.name, recipe.sections.tags, recipe.sections.training.learning_rate) == ("1e5", [text], 1e-5)


def test_a_recipe_has_the_values_of_its_file_and_overrides(tmp_path: Path) -> None:
    recipe = Recipe.load("quickstart", overrides=["training.beta=0.7"])
    assert (recipe.name, recipe.sections.training.beta) == ("quickstart", 0.7)
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "again.yaml").sections.training == recipe.sections.training


def test_a_recipe_of_sections_has_no_lines_in_its_text() -> None:
    sections = {"model": {"model_name_or_path": "a/b"}, "training": {"beta": "${BETA:-0.1}"}}
    text = Recipe(name="mine", dataset={"train": {"path": "x/y"}}, **sections).to_yaml()
    assert "<recipe>" not in text
    assert "\n  model_name_or_path: a/b\n" in text
    assert "\n  beta: 0.1 # ${BETA:-0.1}\n" in text


def test_a_recipe_without_data_says_how_to_train_a_dataset_in_memory(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="give `train` a mapping with these sections, and train_dataset"):
        Recipe(name="mine", model={"model_name_or_path": "a/b"})
    (tmp_path / "mine.yaml").write_text("model:\n  model_name_or_path: a/b\n")
    with pytest.raises(RecipeError, match=r"give `train` this recipe \(and its overrides\), and train_dataset"):
        Recipe.load(tmp_path / "mine.yaml")


def test_a_printed_plan_is_yaml_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_TOKEN", "a-secret-of-some-length")
    planned = plan(write_recipe(tmp_path, estimated=False)).plan
    planned = planned.model_copy(update={"secrets": ["RUN_TOKEN"], "tags": ["a-secret-of-some-length"]})
    assert "a-secret" not in repr(planned)
    printed = yaml.safe_load(str(planned))
    assert printed["tags"] == ["${RUN_TOKEN}"]
    assert printed["training"]["max_steps"] == planned.training["max_steps"]


def test_a_verbose_plan_prints_the_screen_of_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, steps=8, estimated=False)
    estimate = plan(recipe).estimate
    assert estimate is not None
    assert capfd.readouterr().out == ""
    assert (estimate["training"]["steps"], estimate["training"]["tokens"]) == (8, 8 * estimate["step"]["tokens"])
    assert estimate["training"]["seconds"] == pytest.approx(8 * estimate["step"]["seconds"])
    plan(recipe, verbose=True)
    printed = capfd.readouterr().out
    assert printed.startswith("recipe: ORPO of model")
    assert "\nsteps     8 of 4 pairs" in printed
    plan(recipe, overrides=["training.max_steps=-1", "model.model_name_or_path=some/model"], verbose=True)
    captured = capfd.readouterr()
    assert 'is enough: overrides=["model.model_name_or_path=DIR"]' in captured.out
    assert "lengths not measured" in captured.out
    for text in ("--set", "`orpo data`"):
        assert text not in captured.out + captured.err


@pytest.mark.slow
def test_a_program_trains_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["program.py", "--an-option-of-the-program"])
    run = train(
        {
            "output_dir": str(tmp_path / "run"),
            "lora": {"r": 2},
            "training": {**TRAINING, "use_cpu": True},
            "launch": {"num_processes": 2},
        },
        train_dataset=datasets.Dataset.from_list(pairs(12)),
        model=tiny_llama(),
        tokenizer=tiny_tokenizer(),
    )
    assert (run.status, run.record["steps"], run.plan.launch.num_processes) == ("finished", 2, 2)


def test_every_public_name_is_documented_and_typed() -> None:
    for name in orpo_cli.__all__:
        value = getattr(orpo_cli, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            hints = value.__annotations__
            assert {"return", *inspect.signature(value).parameters} == set(hints), name


def test_the_import_loads_no_library() -> None:
    program = "import sys, orpo_cli; dir(orpo_cli); print([n for n in ('torch', 'transformers', 'pydantic', 'yaml') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_traceback_of_an_error_has_its_remedy() -> None:
    try:
        raise UsageError("the directory is in use.", remedy="Choose another one.")
    except UsageError as error:
        shown = "".join(traceback.format_exception(error)).splitlines()
    assert shown[-2:] == ["orpo_cli.errors.UsageError: the directory is in use.", "→ Choose another one."]
