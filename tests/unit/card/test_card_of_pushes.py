"""Model index, licence, curves, samples and the ways to use what was pushed, in a card that the hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from huggingface_hub import ModelCard
from support.card_run import HUB_MODEL, make_records

from orpo_cli.card.base_license import BaseLicense, read_local_license
from orpo_cli.card.curves import render_curves
from orpo_cli.card.model_card import render_card, write_card
from orpo_cli.recipe.schema import LoraSection
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_records(tmp_path / "run")


def log(run: RunDir, steps: int) -> None:
    lines = [
        {"step": step, "loss": 3 / step, "rewards/accuracies": 0.5, "eval_loss": 2.0} for step in range(1, steps + 1)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_measured_accuracy_stands_in_the_model_index(run):
    result = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data.eval_results[0]
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.875)  # what the training measured
    assert (result.dataset_type, result.dataset_name) == ("preference-pairs", "held.jsonl, 60 held-out pairs")
    run.evaluation.write_text(json.dumps({"pairs": 58, "models": {"tuned": {"rewards/accuracies": 0.91379}}}))
    data = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data
    assert data.model_name == "mine"
    assert data.eval_results[0].metric_value == 0.9138
    assert "58 held-out pairs" in data.eval_results[0].dataset_name


def test_where_nothing_was_measured_there_is_no_model_index(run):
    run.write_run(final_evaluation={})
    data = ModelCard(render_card(run, parts="adapter", repo_id="me/mine")).data.to_dict()
    assert "model-index" not in data


def test_held_out_pairs_of_the_hub_are_named_with_their_revision(run):
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


@pytest.mark.parametrize("gated", [True, False])
def test_the_licence_of_the_base_is_that_of_the_model(run, gated):
    terms = BaseLicense("other", "big-community", "https://example.org/L", gated)
    card = render_card(run, parts="merged", base_license=terms, license_accepted=True)
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.license_link) == ("other", "big-community", "https://example.org/L")
    assert ("accept its terms there" in card) is gated
    assert ("these terms allow it" in card) is gated


def test_the_card_beside_a_local_base_tells_its_licence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert read_local_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nA base.\n")
    assert read_local_license(str(tmp_path)) == BaseLicense("apache-2.0")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert read_local_license(str(tmp_path)) is None
    assert read_local_license("some/model") is None


def test_curves_are_a_picture_beside_the_card(run):
    assert render_curves(run) is None  # two steps are no curve
    log(run, 12)
    run.adapter.mkdir()
    write_card(run)
    root = ElementTree.fromstring(run.curves.read_text())
    lines = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 3  # loss in training and held out, accuracy
    first = lines[0].get("points").split()
    assert len(first) == 12
    heights = [float(point.partition(",")[2]) for point in first]
    assert heights == sorted(heights)  # the loss falls, and y grows downwards
    assert "](report/curves.svg)" in run.card.read_text()


def test_curves_of_a_long_run_have_no_more_points_than_pixels(run):
    log(run, 5000)
    root = ElementTree.fromstring(render_curves(run))
    points = next(element for element in root.iter() if element.tag.endswith("polyline")).get("points").split()
    assert 200 <= len(points) <= 400


def test_samples_show_base_and_tuned_and_can_be_left_out(run):
    answers = [
        {"prompt": f"Question {number}?", "base": {"text": "```\nfence"}, "tuned": {"text": "x" * 2000}}
        for number in range(5)
    ]
    run.samples.write_text(json.dumps({"models": ["base", "tuned"], "temperature": 0.0, "answers": answers}))
    card = render_card(run, parts="adapter")
    assert card.count("**Prompt**") == card.count("**Before**") == card.count("**After**") == 3
    assert "````\n```\nfence\n````" in card
    assert "x" * 801 not in card
    assert "## Before and after" not in render_card(run, parts="adapter", samples=False)


def test_every_way_to_use_it_is_shown_with_its_own_names(tmp_path, run):
    (run.export / "gguf").mkdir(parents=True)
    (run.export / "gguf" / "mine-f16.gguf").write_bytes(b"GGUF")
    card = render_card(run, parts=("adapter", "merged", "gguf"), repo_id="me/mine")
    for line in (
        'AutoModelForCausalLM.from_pretrained("me/mine", dtype="auto")',
        'PeftModel.from_pretrained(model, "me/mine", subfolder="adapter")',
        "vllm serve me/mine\n",
        "llama-cli --hf-repo me/mine --hf-file mine-f16.gguf",
    ):
        assert line in card
    alone = render_card(run, parts="adapter", repo_id="me/mine")
    assert "vllm serve example-org/base-1b --enable-lora --max-lora-rank 8 --lora-modules mine=me/mine" in alone
    assert "`orpo export`" in alone
    assert ModelCard(render_card(run, parts="gguf", repo_id="me/mine")).data.library_name == "gguf"
    dora = make_records(tmp_path / "dora", lora=LoraSection(use_dora=True), model=HUB_MODEL)
    assert "vLLM does not support this kind of adapter" in render_card(dora, parts="adapter", repo_id="me/mine")
