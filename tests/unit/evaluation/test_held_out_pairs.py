"""Held-out pairs of a run, and evaluation on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_tiny_model, write_pairs
from support.tiny_eval_run import HELD_OUT, make_eval_run, open_target_quietly

from orpo_cli.data.prepare import prepare
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import DataError, UsageError
from orpo_cli.evaluation.eval_target import EvalTarget
from orpo_cli.evaluation.evaluate import evaluate, record_evaluation
from orpo_cli.evaluation.held_out_pairs import HeldOutPairs, load_held_out_pairs
from orpo_cli.planning.plan import DatasetPlan
from orpo_cli.recipe.schema import EvalSplit, Source
from orpo_cli.rundir import RunDir


def held_out(target: EvalTarget, **options: Any) -> HeldOutPairs:
    return load_held_out_pairs(target, **{"note": lambda _: None, **options})


def split_run(folder: Path) -> RunDir:
    """A run that cut its held-out pairs from its training pairs."""
    source = Source(path=str(write_pairs(folder / "all.jsonl", 20)))
    dataset = DatasetPlan(train=[source], eval=EvalSplit(test_size=0.25), max_prompt_length=96)
    return make_eval_run(folder, dataset=dataset)


def test_a_run_is_evaluated_on_its_held_out_pairs(tmp_path: Path) -> None:
    run = split_run(tmp_path)
    target, plan = open_target_quietly(run.root), run.read_plan()
    prepared = prepare(plan.dataset, target.tokenizer, max_length=192, max_prompt_length=96, note=lambda _: None)
    assert prepared.eval is not None
    got = held_out(target)
    assert got.rows == list(prepared.eval)
    assert len(got.rows) == got.available == 5
    assert not {row["row"] for row in got.rows} & set(prepared.train["row"])


def test_changed_held_out_pairs_are_detected(tmp_path: Path) -> None:
    run = split_run(tmp_path)
    target, plan = open_target_quietly(run.root), run.read_plan()
    assert held_out(target).same_as_in_training is None
    report = prepare(plan.dataset, target.tokenizer, max_length=192, max_prompt_length=96, note=lambda _: None).report
    run.data_report.write_text(json.dumps(report.as_dict()))
    assert held_out(target).same_as_in_training is True
    data = tmp_path / "all.jsonl"
    data.write_text(data.read_text().replace("It is", "It was"))
    assert held_out(target).same_as_in_training is False


def test_max_samples_takes_the_first(tmp_path: Path) -> None:
    target = open_target_quietly(make_eval_run(tmp_path).root)
    assert held_out(target, max_samples=3).rows == held_out(target).rows[:3]
    assert held_out(target, max_samples=3).available == HELD_OUT
    assert len(held_out(target, max_samples=99).rows) == HELD_OUT


def test_other_data_is_truncated_to_the_lengths_of_the_run(tmp_path: Path) -> None:
    target = open_target_quietly(make_eval_run(tmp_path, training={"beta": 0.1, "max_length": 70}).root)
    other = write_pairs(tmp_path / "other.jsonl", 4, start=200)
    got = held_out(target, data=str(other))
    assert got.source == str(other)
    assert got.same_as_in_training is None
    assert max(len(expand_pair(row)["rejected_input_ids"]) for row in got.rows) == 70


def test_a_single_model_is_evaluated_on_data_with_max_length(tmp_path: Path) -> None:
    target = open_target_quietly(save_tiny_model(tmp_path / "model"))
    data = str(write_pairs(tmp_path / "pairs.jsonl", 4))
    longest = [
        max(len(expand_pair(row)["rejected_input_ids"]) for row in held_out(target, data=data, max_length=n).rows)
        for n in (40, 400)
    ]
    assert longest[0] == 40 < longest[1]


def test_a_single_model_needs_data(tmp_path: Path) -> None:
    target = open_target_quietly(save_tiny_model(tmp_path / "model"))
    with pytest.raises(UsageError) as caught:
        held_out(target)
    assert "--data" in str(caught.value.remedy)


def test_a_run_without_held_out_pairs_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    source = Source(path=str(write_pairs(tmp_path / "all.jsonl", 5)))
    run = make_eval_run(tmp_path, dataset=DatasetPlan(train=[source], max_prompt_length=96))
    with pytest.raises(UsageError, match="has no held-out pairs") as caught:
        held_out(open_target_quietly(run.root))
    assert "--data" in str(caught.value.remedy)


def test_max_length_for_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-length does nothing"):
        held_out(open_target_quietly(make_eval_run(tmp_path).root), max_length=64)


def test_missing_data_is_a_data_error(tmp_path: Path) -> None:
    target = open_target_quietly(make_eval_run(tmp_path).root)
    with pytest.raises(DataError, match="no such file") as caught:
        held_out(target, data=str(tmp_path / "none" / "xyz.jsonl"))
    assert caught.value.remedy == "Give preference pairs: jsonl, json, csv, parquet."
    near = write_pairs(tmp_path / "judged-pairs.jsonl", 2)
    with pytest.raises(DataError, match="no such file") as caught:
        held_out(target, data=str(tmp_path / "judged-pair.jsonl"))
    assert caught.value.remedy == f"Did you mean {near}?"


def test_only_an_evaluation_on_all_held_out_pairs_is_written_to_the_run(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    target = open_target_quietly(run.root)
    other = write_pairs(tmp_path / "other.jsonl", 3)
    assert not record_evaluation(run, evaluate(target, held_out(target, max_samples=2)))
    assert not record_evaluation(run, evaluate(target, held_out(target, data=str(other))))
    assert not run.evaluation.exists()
    document = evaluate(target, held_out(target))
    assert record_evaluation(run, document)
    assert json.loads(run.evaluation.read_text()) == json.loads(json.dumps(document))


def test_the_document_compares_base_and_tuned(tmp_path: Path) -> None:
    target = open_target_quietly(make_eval_run(tmp_path).root)
    document = evaluate(target, held_out(target))
    base, tuned, change = document["models"]["base"], document["models"]["tuned"], document["change"]
    assert document["beta"] == 0.3
    assert document["pairs"] == len(document["scores"]) == HELD_OUT
    for name in ("rewards/accuracies", "rewards/margins", "nll_loss", "logps/chosen"):
        assert change[name] == pytest.approx(tuned[name] - base[name])
    assert base["logps/chosen"] != tuned["logps/chosen"]
    won = change["pairs_won"] - change["pairs_lost"]
    assert won == pytest.approx(HELD_OUT * change["rewards/accuracies"])
    margins = [
        each["models"]["tuned"]["logps/chosen"] - each["models"]["tuned"]["logps/rejected"]
        for each in document["scores"]
    ]
    assert tuned["rewards/margins"] == pytest.approx(0.3 * sum(margins) / HELD_OUT)


def test_a_single_model_has_no_change(tmp_path: Path) -> None:
    target = open_target_quietly(save_tiny_model(tmp_path / "model"))
    document = evaluate(target, held_out(target, data=str(write_pairs(tmp_path / "pairs.jsonl", 3))))
    assert list(document["models"]) == ["model"]
    assert document["change"] is None
