"""`orpo eval` from its arguments to its output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from conftest import CommandResult, Orpo
from support.json_lines import write_json_lines
from support.tiny import pairs, save_tiny_model, write_pairs, write_recipe
from support.tiny_eval_run import HELD_OUT, TRAIN_PAIRS, make_eval_run
from typer.testing import CliRunner, Result

from orpo_cli.cli.eval import command
from orpo_cli.errors import DataError, UsageError
from orpo_cli.evaluation.evaluate import _accuracy_by_length, _findings
from orpo_cli.evaluation.preference_scores import PairScores
from orpo_cli.planning.plan import DatasetPlan
from orpo_cli.recipe.schema import Source
from orpo_cli.report.paired_comparison import compare_with_base
from orpo_cli.report.run_history import read_history
from orpo_cli.rundir import RunDir
from orpo_cli.statistics import PairedComparison, effective_count, mcnemar_p_value
from orpo_cli.sweep.scores import read_progress

app = typer.Typer()
app.command()(command)


def invoke_eval(*arguments: object) -> Result:
    """Run the command in this process, which is fast; other tests below start a process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_eval_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "model")


def test_json_is_the_only_output_and_the_same_as_evaluation_json(run: RunDir, orpo: Orpo) -> None:
    done = orpo("eval", run.root, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads(run.evaluation.read_text())
    assert document["status"] == "evaluated"
    assert document["pairs"] == HELD_OUT
    assert list(document["models"]) == ["base", "tuned"]
    assert str(run.evaluation) in done.stderr
    assert "\x1b" not in done.stderr


def test_a_table_shows_base_tuned_and_the_change(run: RunDir) -> None:
    done = invoke_eval(run.root)
    assert done.exit_code == 0, done.output
    head, accuracy = (
        next(line for line in done.stdout.splitlines() if word in line) for word in ("base", "accuracy  ")
    )
    assert head.index("base") < head.index("tuned") < head.index("change")
    models = json.loads(run.evaluation.read_text())["models"]
    before, after = (models[variant]["rewards/accuracies"] for variant in ("base", "tuned"))
    for cell in (f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"):
        assert cell in accuracy
    margins = [models[variant]["logps/chosen"] - models[variant]["logps/rejected"] for variant in ("base", "tuned")]
    margin = next(line for line in done.stdout.splitlines() if "margin  " in line)
    for cell in (*map("{:.4f}".format, margins), f"{margins[1] - margins[0]:+.4f}"):
        assert cell in margin
    change = json.loads(run.evaluation.read_text())["change"]
    assert f"p {mcnemar_p_value(change['pairs_won'], change['pairs_lost']):.2g}" in done.stdout
    assert f"{HELD_OUT} held-out pairs" in done.stdout


def test_the_report_has_the_same_interval_of_the_change_as_eval(run: RunDir) -> None:
    document = json.loads(invoke_eval(run.root, "--json").stdout)
    comparison = compare_with_base(read_history(run.root))
    assert isinstance(comparison, PairedComparison)
    assert comparison.margin_interval is not None
    intervals = document["change"]["intervals"]
    assert intervals["margin"] == pytest.approx(comparison.margin_interval, abs=1e-9)
    with_beta = [document["beta"] * end for end in comparison.margin_interval]
    assert intervals["rewards/margins"] == pytest.approx(with_beta, abs=1e-9)
    shown_text = " ".join(invoke_eval(run.root).stdout.split())
    assert "margin: Student's t" in shown_text
    low, high = intervals["margin"]
    assert ("no measurable change of the margin" in shown_text) is (low <= 0 <= high)
    assert ("the margin grew" in shown_text, "the margin fell" in shown_text) == (low > 0, high < 0)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.1, 0.2), "the margin grew"),
        ((-0.2, -0.1), "the margin fell"),
        ((-0.1, 0.1), "no measurable change"),
        (None, ""),
    ],
)
def test_the_change_of_the_margin_is_put_into_words(interval: Any, expected: str) -> None:
    found = _findings({"intervals": {"margin": interval}, "p_value": 0.01}, base_accuracy=0.5, pairs=9, steps=50)
    found = list(found)
    assert [text[: len(expected)] for text in found] == ([expected] if expected else [])
    if found and "grew" not in expected:
        assert "in 50 steps (train more epochs first: orpo explain accuracy-unchanged)" in found[0]


def test_a_grown_margin_with_an_unchanged_accuracy_and_the_accuracy_by_length_are_put_into_words() -> None:
    change = {"intervals": {"margin": (0.1, 0.2)}, "p_value": 0.4}
    assert (
        "the accuracy did not change measurably (p 0.4)"
        in list(_findings(change, base_accuracy=0.5, pairs=9, steps=50))[1]
    )
    longer = torch.tensor([3] * 10 + [-3] * 12 + [0])
    base = PairScores(torch.zeros(23), torch.ones(23), nll=1.0, nll_tokens=1)
    tuned = PairScores(longer.sign() * -1.0, torch.zeros(23), nll=1.0, nll_tokens=1, longer=longer)
    (text,) = _accuracy_by_length({"base": base, "tuned": tuned})
    assert text.endswith(
        "0.000 → 0.000 where it is the longer one (10 pairs); 0.000 → 1.000 where it is the shorter one (12 pairs)"
    )
    base.chosen[:2] = 2
    (text,) = _accuracy_by_length({"base": base, "tuned": tuned})
    assert "0.200 → 0.000" in text
    assert text.endswith(": it grew only where the answer is shorter, so that the model may have learned the length")
    weights = torch.tensor([4.0] * 2 + [1.0] * 21)
    weighted = [replace(each, weights=weights) for each in (base, tuned)]
    (text,) = _accuracy_by_length({"base": weighted[0], "tuned": weighted[1]})
    assert "0.500 → 0.000 where it is the longer one (10 pairs)" in text
    assert not list(_accuracy_by_length({"base": base, "tuned": replace(tuned, longer=longer.clamp(max=0))}))


def test_the_report_and_a_sweep_weight_the_held_out_pairs_as_the_evaluation_does(
    tmp_path: Path, orpo: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, steps=2, estimated=False, training={"eval_strategy": "steps", "eval_steps": 1})
    weighted = [{**pair, "weight": 1 + 3 * index} for index, pair in enumerate(pairs(8, start=100))]
    heldout = write_json_lines(tmp_path / "weighted.jsonl", weighted)
    held_out = f"dataset.eval={{path: {heldout}, columns: {{weight: weight}}}}"
    trained = orpo("train", recipe, "--set", held_out)
    assert trained.returncode == 0, trained.stderr
    history = read_history(tmp_path / "run")
    last, score = history.last_eval, read_progress(history.path).scores[-1]
    assert [each.weight for each in score.pair_scores.values()] == [1 + 3 * index for index in range(8)]
    assert score.margin == pytest.approx(last["eval_logps/chosen"] - last["eval_logps/rejected"], abs=1e-6)
    assert score.on_pairs(score.pair_scores.keys()).accuracy == pytest.approx(last["eval_rewards/accuracies"])

    counted: list[float] = []  # of the note that the accuracy cannot grow
    monkeypatch.setattr("orpo_cli.evaluation.evaluate.accuracy_limit_note", lambda _, number: counted.append(number))
    document = json.loads(invoke_eval(history.path, "--json").stdout)
    assert counted == [pytest.approx(effective_count([1 + 3 * index for index in range(8)]))]
    assert history.effective_pairs(last) == pytest.approx(counted[0], abs=0.05)  # rounded in data_report.json
    comparison = compare_with_base(read_history(history.path))
    assert isinstance(comparison, PairedComparison)
    assert document["scores"][1]["weight"] == 4
    for variant, accuracy in (("base", comparison.first_accuracy), ("tuned", comparison.second_accuracy)):
        assert document["models"][variant]["rewards/accuracies"] == pytest.approx(accuracy)
    assert document["change"]["rewards/margins"] == pytest.approx(document["beta"] * comparison.margin_change)
    shown = [document["beta"] * end for end in comparison.margin_interval or ()]
    assert document["change"]["intervals"]["rewards/margins"] == pytest.approx(shown, abs=1e-9)


def test_metrics_do_not_depend_on_the_batch_size(run: RunDir) -> None:
    found = [json.loads(invoke_eval(run.root, "--json", "--batch-size", size).stdout)["models"] for size in (1, 5)]
    for variant in ("base", "tuned"):
        one, five = (models[variant] for models in found)
        assert one["logps/chosen"] == pytest.approx(five["logps/chosen"], abs=1e-5)
        assert one["rewards/margins"] == pytest.approx(five["rewards/margins"], abs=1e-5)


def test_swapping_chosen_and_rejected_inverts_accuracy_and_margin(run: RunDir, tmp_path: Path) -> None:
    straight, swapped = tmp_path / "straight.jsonl", tmp_path / "swapped.jsonl"
    straight.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(9)))
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs(9)]
    swapped.write_text("".join(json.dumps(pair) + "\n" for pair in turned))
    one, other = (
        json.loads(invoke_eval(run.root, "--data", path, "--json").stdout)["models"] for path in (straight, swapped)
    )
    for variant in ("base", "tuned"):
        assert one[variant]["rewards/accuracies"] + other[variant]["rewards/accuracies"] == pytest.approx(1.0)
        assert one[variant]["rewards/margins"] == pytest.approx(-other[variant]["rewards/margins"], abs=1e-6)


def test_the_result_of_some_held_out_pairs_is_not_written_to_the_run(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    done = invoke_eval(run.root, "--max-samples", 2, "--json")
    assert json.loads(done.stdout)["pairs"] == 2
    assert not run.evaluation.exists()
    assert "evaluation.json not written" in done.stderr


def test_held_out_pairs_that_differ_from_those_of_the_training_cause_a_warning(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    run.data_report.write_text(json.dumps({"fingerprints": {"eval": "of other pairs"}}))
    done = invoke_eval(run.root, "--quiet", "--json")
    assert "warning: the held-out pairs are not those of the training" in done.stderr
    assert json.loads(done.stdout)["same_as_in_training"] is False


def test_a_single_model_is_evaluated_without_a_base(model: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", TRAIN_PAIRS)
    done = invoke_eval(model, "--data", data, "--json")
    document = json.loads(done.stdout)
    assert list(document["models"]) == ["model"]
    assert document["change"] is None
    assert document["pairs"] == TRAIN_PAIRS
    shown = invoke_eval(model, "--data", data).stdout
    assert "model" in shown
    assert "change" not in shown


def test_a_merged_model_has_the_beta_of_its_run(model: Path, tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    data = write_pairs(tmp_path / "pairs.jsonl", TRAIN_PAIRS)
    found = {}
    for folder in (run.merged, tmp_path / "copy"):
        shutil.copytree(model, folder)
        document = json.loads(invoke_eval(folder, "--data", data, "--json").stdout)
        found[folder.name] = document["beta"], document["models"]["model"]["rewards/margins"]
    assert (found["merged"][0], found["copy"][0]) == (0.3, 0.1)
    assert found["merged"][1] == pytest.approx(3 * found["copy"][1])


def test_a_single_model_without_data_exits_2(model: Path, orpo: Orpo) -> None:
    done = orpo("eval", model, "--json")
    assert done.returncode == 2
    assert "--data" in json.loads(done.stdout)["remedy"]
    assert "Traceback" not in done.stderr


def test_a_run_without_held_out_pairs_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    source = Source(path=str(write_pairs(tmp_path / "all.jsonl", 5)))
    run = make_eval_run(tmp_path, dataset=DatasetPlan(train=[source], max_prompt_length=96))
    error = invoke_eval(run.root).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "has no held-out pairs" in error.message
    assert "--data" in str(error.remedy)


def test_missing_data_is_a_data_error(run: RunDir, tmp_path: Path) -> None:
    error = invoke_eval(run.root, "--data", tmp_path / "none.jsonl").exception
    assert isinstance(error, DataError)
    assert error.exit_code == 4


@pytest.mark.parametrize(("option", "value"), [("--max-length", 64), ("--chat-template", "zephyr")])
def test_an_option_that_does_nothing_for_a_run_is_an_error(run: RunDir, option: str, value: object) -> None:
    error = invoke_eval(run.root, option, value).exception
    assert isinstance(error, UsageError)
    assert f"{option} does nothing for the run" in error.message


def test_a_result_that_cannot_be_recorded_is_printed_all_the_same(
    tmp_path: Path, orpo_here: Callable[..., CommandResult]
) -> None:
    run = make_eval_run(tmp_path)
    generate = ["generate", "--compare", "-n", "1", "--max-new-tokens", "2"]
    for record, arguments in ((run.evaluation, ["eval"]), (run.samples, generate)):
        record.symlink_to("/dev/full")
        done = orpo_here(*arguments, run.root, "--json")
        assert done.returncode == 3
        assert list(json.loads(done.stdout)["models"]) == ["base", "tuned"]  # the one document
        assert f"cannot write {record}: the disk is full" in done.stderr
        assert "wrote" not in done.stderr


def test_help_shows_examples() -> None:
    shown = invoke_eval("--help").stdout
    assert "orpo eval runs/quickstart --data other-pairs.jsonl --json" in shown


def test_data_is_read_with_the_columns_of_the_recipe_of_the_run(tmp_path: Path) -> None:
    names = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    rows = [{names.get(key, key): value for key, value in pair.items()} for pair in pairs(6)]
    data = write_json_lines(tmp_path / "renamed.jsonl", rows)
    run = make_eval_run(tmp_path / "run")
    error = invoke_eval(run.root, "--data", data).exception
    assert isinstance(error, DataError)
    assert error.remedy is not None
    assert error.remedy.startswith(
        "Rename these columns of the file: question to prompt, good to chosen, bad to rejected."
    )
    train = [Source(path=str(data), columns=names)]
    run = make_eval_run(tmp_path / "mapped", dataset=DatasetPlan(train=train, eval=None, max_prompt_length=96))
    done = invoke_eval(run.root, "--data", data)
    assert done.exit_code == 0, done.output
    assert "columns: {prompt: question, chosen: good, rejected: bad}, as in the recipe of the run" in done.stderr
