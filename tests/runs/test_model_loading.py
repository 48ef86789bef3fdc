"""Every setting of `model:` that says how a model is loaded arrives in transformers, and goes along to evaluation and merge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import SIZES
from support.hub_repository import HubRepository, StoredFile
from support.loopback_hub import LoopbackHub
from support.tiny import save_tiny_model, tiny_tokenizer, write_recipe
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig

from orpo_cli.model.base_model import load_base
from orpo_cli.model.model_facts import model_facts
from orpo_cli.model.model_source import ModelSource
from orpo_cli.planning.plan import ModelPlan
from orpo_cli.recipe.schema import ModelSection

Orpo = Callable[..., Any]
TOKEN = "hf_ofTheCompanyForTests"
YARN = {"rope_type": "yarn", "factor": 4.0}


def test_a_model_in_a_subfolder_trains_is_judged_and_merged(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, model={"subfolder": "checkpoint-500"})
    inner = tmp_path / "model" / "checkpoint-500"
    inner.mkdir()
    for file in (tmp_path / "model").glob("*.*"):
        file.rename(inner / file.name)
    for command in (["train", recipe], ["eval", tmp_path / "run"], ["merge", tmp_path / "run"]):
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr
    missing = orpo_here("plan", recipe, "--set", "model.subfolder=checkpoint-501")
    assert missing.returncode == 2
    assert "checkpoint-501 is not a model folder" in missing.stderr


ALL_OF_THEM = """
import json, sys
from orpo_cli.cli.main import main
for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, sys.argv
"""


def in_one_process(commands: list[list[Any]], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The commands one after the other with this environment, of which huggingface_hub takes note once; none may fail."""
    given = json.dumps([["orpo", *map(str, command)] for command in commands])
    code = [sys.executable, "-c", ALL_OF_THEM, given]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_private_model_is_read_with_a_token_of_the_environment_that_is_never_shown(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path, model={"model_name_or_path": "acme/base", "subfolder": "sub", "token": "${ACME_HF_TOKEN}"}
    )
    files = {
        f"sub/{file.name}": StoredFile(file.read_bytes(), file.suffix == ".safetensors")
        for file in (tmp_path / "model").iterdir()
    }
    with LoopbackHub(TOKEN) as hub:
        hub.repos["acme/base"] = repo = HubRepository(private=True)
        repo.branches["main"] = files
        repo.heads["main"] = "a" * 40
        repo.snapshots["a" * 40] = files
        hub.lfs.update({stored.sha256: stored.content for stored in files.values() if stored.lfs})
        without = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
        home = {"HF_HOME": str(tmp_path / "home"), "ACME_HF_TOKEN": TOKEN}
        environment = {**without, **hub.environment(), **home}
        del environment["HF_TOKEN"]
        commands = [["train", recipe], ["eval", tmp_path / "run"], ["merge", tmp_path / "run"]]
        done = in_one_process(commands, environment)
    assert TOKEN not in done.stdout + done.stderr
    kept = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not [file for file in kept if TOKEN.encode() in file.read_bytes()]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["model"]["token"]["value"] == "${ACME_HF_TOKEN}"


def test_device_map_and_max_memory_reach_accelerate(tmp_path: Path, orpo_here: Orpo) -> None:
    model = {"device_map": "auto", "max_memory": {"cpu": "1GB"}}
    recipe = write_recipe(tmp_path, model=model)
    for command in (["train", recipe], ["eval", tmp_path / "run"], ["merge", tmp_path / "run"]):
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr

    small = orpo_here(
        "train", recipe, "--set", "model.max_memory.cpu=100KB", "--set", f"output_dir={tmp_path / 'small'}"
    )
    assert small.returncode == 3, small.stderr
    assert "does not fit" in small.stderr
    nowhere = ["--set", 'model.device_map={"": 7}', "--set", "model.max_memory=null"]
    done = orpo_here("train", recipe, *nowhere, "--set", f"output_dir={tmp_path / 'nowhere'}")
    assert done.returncode == 2, done.stderr
    assert "model.device_map" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_stretched_positions_are_trained_kept_and_merged(lora: bool, tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, lora=lora, model={"rope_scaling": YARN})
    planned = orpo_here("plan", recipe, "--set", "training.max_length=2000")
    assert "length-beyond-positions" not in planned.stderr  # 512 × 4
    beyond = orpo_here("plan", recipe, "--set", "training.max_length=2100")
    assert "never trained beyond token 2048" in beyond.stderr
    for command in (["train", recipe], ["eval", tmp_path / "run"]):
        done = orpo_here(*command)
        assert done.returncode == 0, done.stderr
    stored = tmp_path / "run" / "model"
    if lora:
        assert orpo_here("merge", tmp_path / "run").returncode == 0
        stored = tmp_path / "run" / "merged"
    config = AutoConfig.from_pretrained(stored)
    assert config.max_position_embeddings == 2048
    rope = config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 4.0, 512)


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 1024),
        ({"rope_type": "dynamic", "factor": 2.0}, 1024),
        (YARN, 2048),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, 4096,
        ),
        ({"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0}, 2048),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_way_to_stretch_changes_what_the_model_computes(
    rope: dict[str, Any], longest: int, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path / "model")
    plain = ModelPlan(model_name_or_path=str(tmp_path / "model"), dtype="float32", attn_implementation="sdpa")
    section = ModelPlan.model_validate({**plain.model_dump(exclude_none=True), "rope_scaling": rope})
    assert model_facts(ModelSource(section)).max_position_embeddings == longest
    ids = torch.arange(600).remainder(97)[None]
    with torch.inference_mode():
        before, after = (load_base(ModelSource(each), None, "cpu")(input_ids=ids).logits for each in (plain, section))
    assert (before - after).abs().max() > 1e-3


def test_of_a_model_with_two_rotations_the_far_sighted_one_is_stretched(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        **{**SIZES, "num_hidden_layers": 2, "vocab_size": len(tiny_tokenizer())}, head_dim=8, sliding_window=6,
        query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    section = ModelSection.model_validate(
        {"model_name_or_path": str(tmp_path), "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    )
    rope = ModelSource(section).config().rope_parameters
    assert (rope["full_attention"]["rope_type"], rope["full_attention"]["factor"]) == ("linear", 8.0)
    assert rope["sliding_attention"]["rope_type"] == "default"


def test_a_model_without_rotary_positions_says_so(tmp_path: Path, orpo_here: Orpo) -> None:
    from transformers import GPT2Config

    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=256, vocab_size=len(tiny_tokenizer()))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    recipe = write_recipe(tmp_path, model={"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    done = orpo_here("plan", recipe)
    assert done.returncode == 2
    assert "no rotary positions" in done.stderr
