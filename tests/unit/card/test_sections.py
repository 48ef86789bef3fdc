"""Sections of a model card: results, samples, recipe, usage; escaped names."""

from __future__ import annotations

import ast
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.card_run import HUB_MODEL, make_card_run
from support.json_lines import write_json_lines

from orpo_cli.card.base_license import BaseLicense
from orpo_cli.card.model_card import render_card
from orpo_cli.card.sections import data_section, merge_section
from orpo_cli.merging.merge_record import MergeRecord
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import LoraSection
from orpo_cli.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_card_run(tmp_path / "run")


def test_the_card_has_the_statistics_of_data_and_training(run):
    card = render_card(run, parts="adapter", repo_id="me/mine")
    assert "240 preference pairs; 60 were held out" in card
    assert "| train | `example-org/pairs` [train] | preference | 250 | 240 | 10 |" in card
    assert "- 7 dropped: both answers are the same" in card
    assert "| | step 1 | step 2 | held out, step 2 |" in card
    assert "| `rewards/accuracies` | 0.5 | 0.75 | 0.875 |" in card
    assert "| `loss` | 2.5 | 1.5 | 1.6 |" in card
    assert "trl 1.16.0" in card
    assert "2403.07691" in card
    assert "```yaml\nmodel:\n  model_name_or_path: x\n```" in card
    assert '"me/mine"' in card


def test_the_pairs_of_a_run_that_ends_within_its_first_epoch_are_counted(tmp_path):
    run = make_card_run(tmp_path / "run")
    for pairs, text in (
        (80, "Trained on 80 of 240 preference pairs; 60"),
        (480, "Trained on 240 preference pairs; 60"),
    ):
        write_json_lines(run.metrics, [{"kind": "train", "step": 1, "loss": 1.0, "pairs": pairs}])
        assert text in data_section(run)


def test_the_results_have_the_metrics_of_orpo_eval(run):
    models = {"base": {"rewards/accuracies": 0.5}, "tuned": {"rewards/accuracies": 0.9}}
    run.evaluation.write_text(json.dumps({"pairs": 60, "models": models}))
    card = render_card(run, parts="adapter")
    assert "60 held-out pairs, base | 60 held-out pairs, tuned |" in card
    assert "0.875 | 0.5 | 0.9 |" in card


def test_a_merge_of_several_adapters_names_them(run):
    run.merged.mkdir()
    record = MergeRecord(
        verified=True,
        adapter="adapter",
        adapter_sha256={},
        base="x",
        base_revision="main",
        quantization=None,
        dtype="float32",
        max_logit_difference=1e-6,
        versions={"orpo-cli": "0.1.0"},
        created="2026-01-01T00:00:00+00:00",
        adapters=[{"adapter": "adapter", "weight": 0.5}, {"adapter": "other", "weight": 2.0}],
    )
    record.write(run.merged)
    text = merge_section(run)
    assert "has these adapters: adapter (weight 0.5), other (weight 2). They were merged into" in text
    assert "the first one alone" in text
    replace(record, adapters=[]).write(run.merged)
    assert "The adapter was merged into" in merge_section(run)


def test_an_evaluation_with_the_numbers_of_the_training_is_one_column(run):
    models = {"base": {"rewards/accuracies": 0.5}, "tuned": {"rewards/accuracies": 0.875}}
    run.evaluation.write_text(json.dumps({"pairs": 60, "models": models}))
    card = render_card(run, parts="adapter")
    assert "| | step 1 | step 2 | 60 held-out pairs, base | 60 held-out pairs, tuned |" in card
    assert "| `loss` | 2.5 | 1.5 |  | 1.6 |" in card


def test_samples_show_both_models_and_can_be_omitted(run):
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


def test_a_recipe_with_a_code_fence_stays_in_its_code_block(tmp_path):
    card = render_card(make_card_run(tmp_path / "run", recipe="# ```\n# not the end\nname: x\n"), parts="adapter")
    assert "````yaml\n# ```\n# not the end\nname: x\n````" in card


def test_names_are_escaped_in_markup_and_code(tmp_path):
    base = 'models/"a`b" $(touch x)'
    section = HUB_MODEL.model_copy(update={"model_name_or_path": base})
    run = make_card_run(tmp_path / "run", model=section, name="<script>alert(1)</script>\n# [x](y)")
    report = json.loads(run.data_report.read_text())
    report["sources"][0] |= {"path": "a|`b`.jsonl", "location": "/a", "split": "<i>|", "fingerprint": "0123"}
    run.data_report.write_text(json.dumps(report))
    card = render_card(run, parts="adapter")
    assert "\n# &lt;script&gt;alert(1)&lt;/script&gt; # \\[x\\](y)\n" in card
    assert f"a LoRA adapter for `` {base} ``" in card.replace("A LoRA", "a LoRA")
    assert "| train | `` a\\|`b`.jsonl `` [&lt;i&gt;\\|] | preference |" in card
    python = card.partition("```python\n")[2].partition("\n```")[0]
    strings = [node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)]
    assert base in strings
    (command,) = [line for line in card.splitlines() if line.startswith("vllm serve")]
    assert shlex.split(command)[2] == base


def test_a_card_has_no_path_of_this_machine(tmp_path):
    section = HUB_MODEL.model_copy(update={"model_name_or_path": str(tmp_path / "models" / "base-1b")})
    recipe = f"model:\n  model_name_or_path: {tmp_path}/models/base-1b\ndataset:\n  train: {{path: ~/pairs.jsonl}}\n"
    run = make_card_run(tmp_path / "run", recipe=recipe, model=section)
    run.original_recipe.write_text(recipe)
    report = json.loads(run.data_report.read_text())
    report["sources"][0] |= {"path": f"{tmp_path}/pairs.jsonl", "location": f"{tmp_path}/pairs.jsonl"}
    run.data_report.write_text(json.dumps(report))
    card = render_card(run, parts="adapter", repo_id="me/mine", base_license=BaseLicense("mit"))
    assert str(tmp_path) not in card
    assert "~/" not in card
    assert "A LoRA adapter for `base-1b`" in card
    assert 'AutoModelForCausalLM.from_pretrained("path/to/base-1b"' in card
    assert "vllm serve path/to/base-1b" in card
    assert "replace the path by that of your copy" in card


def test_a_gguf_base_is_loaded_as_transformers_loads_it(tmp_path, run):
    from transformers import AutoModelForCausalLM

    section = ModelPlan(
        model_name_or_path="package://a_package/Tiny-1B.Q4_1.gguf", dtype="float32", attn_implementation="sdpa"
    )
    card = render_card(make_card_run(tmp_path / "gguf", model=section), parts="adapter")
    assert 'AutoModelForCausalLM.from_pretrained("path/to", gguf_file="Tiny-1B.Q4_1.gguf", dtype="auto")' in card
    assert "merge it into its base first" in card
    assert "A LoRA adapter for `Tiny-1B.Q4_1.gguf` of the Python package `a-package`, trained" in card
    assert "`pip install gguf`" in card
    with pytest.raises(OSError, match=r"Tiny-1B\.Q4_1\.gguf"):  # it looks for this file in this folder
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="Tiny-1B.Q4_1.gguf", dtype="auto")


def test_each_usage_example_has_the_names_of_its_part(tmp_path, run):
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
    dora = make_card_run(tmp_path / "dora", lora=LoraSection(use_dora=True), model=HUB_MODEL)
    assert "vLLM does not support this kind of adapter" in render_card(dora, parts="adapter", repo_id="me/mine")
