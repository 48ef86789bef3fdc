"""Distributed steps: two processes give the loss and gradients of one, since means are taken over the pairs of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import write_pairs

# 24 pairs in 3 steps of 8. Loss and metrics are those of the complete step on every process.
SCRIPT = """
import json, sys
from pathlib import Path
from safetensors.torch import save_file
from support.tiny import tiny_llama, tiny_tokenizer
from orpo_cli.data.prepare import prepare
from orpo_cli.machine import probe
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer

recipe, out = sys.argv[1:]
plan, tokenizer = resolve(load_recipe(recipe), probe()), tiny_tokenizer()
data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=print)
notes = []
inputs = TrainingInputs(tiny_llama(len(tokenizer)), tokenizer, data.train, data.eval)
trainer = make_trainer(plan, Path(out), inputs, [], notes.append)
trainer.train()
history = trainer.state.log_history
if trainer.accelerator.is_main_process:
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    save_file(weights, out + ".safetensors")
    found = {"notes": notes, "history": history, "processes": trainer.accelerator.num_processes}
    Path(out + ".json").write_text(json.dumps(found))
"""


def run(folder: Path, processes: int, batch: int, lora: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    recipe = {
        "model": {"model_name_or_path": "unused/unused"},
        "dataset": {"train": {"path": str(folder / "train.jsonl")}, "max_prompt_length": 128},
        **({"lora": {"r": 4, "target_modules": "all-linear"}} if lora else {}),
        "training": {
            "max_steps": 3, "per_device_train_batch_size": batch, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
            "max_length": 256, "save_strategy": "no", "use_cpu": True, "logging_steps": 1, "optim": "sgd", "seed": 3,
            "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
        },
        "engine": {"fast_path": "required", "max_tokens_per_microbatch": 200},
        "launch": {"num_processes": processes},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "train.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    out = folder / f"of-{processes}"
    environment = {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(folder / "train.py"), str(folder / "recipe.yaml"), str(out)],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(f"{out}.safetensors"), json.loads(Path(f"{out}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_two_processes_train_as_one_process_does(tmp_path: Path, lora: bool) -> None:
    write_pairs(tmp_path / "train.jsonl", 24)
    alone, alone_log = run(tmp_path, 1, 4, lora)
    together, together_log = run(tmp_path, 2, 2, lora)
    assert together_log["processes"] == 2
    assert alone_log["notes"] == together_log["notes"] == []
    steps = [(a, b) for a, b in zip(alone_log["history"], together_log["history"], strict=True) if "loss" in a]
    assert len(steps) == 3
    for one, two in steps:
        for name in ("loss", "grad_norm", "nll_loss", "log_odds_ratio", "rewards/accuracies", "logps/chosen"):
            assert two[name] == pytest.approx(one[name], rel=2e-5), name
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-6)


SHARDED = """
import os, sys
from types import SimpleNamespace
import torch, torch.distributed as dist
from support.architectures import PACKED, build
from support.steps import with_adapter, random_pairs
from torch.distributed.fsdp import fully_shard
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.engine.packed_step import Engine

def engine_of(model, processes):
    accelerator = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))
    options = {"agreement": Agreement(processes), "sharded": processes > 1, "filler_pair": pairs[0]}
    return Engine(model, accelerator.device, beta=0.3, loss_on_prompt=True, max_tokens=60, **options)

def step(engine, model, pairs, processes):
    engine.start_step(pairs)
    parts = engine.micro_batches(pairs)
    sys.stdout.write(f"{sum(part.in_loss for part in parts)} of {len(parts)}\\n")  # one write, since two processes print
    for part in parts:
        with engine.patched_model(part):
            (engine.loss_share(model, part) * processes).backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return gradients, engine.metrics()

name, lora, checkpointed = sys.argv[1], sys.argv[2] == "lora", sys.argv[3] == "checkpointed"
dist.init_process_group("gloo")
rank = dist.get_rank()
pairs = random_pairs(3, count=8)
alone = with_adapter(build(PACKED[name]()), lora).train()
expected, their_metrics = step(engine_of(alone, 1), alone, pairs, 1)
model = with_adapter(build(PACKED[name]()), lora).train()
engine = engine_of(model, 2)  # before the weights are sharded, as the trainer creates it
if checkpointed:
    model.gradient_checkpointing_enable()
for layer in (model.get_base_model() if lora else model).model.layers:
    fully_shard(layer)
fully_shard(model)
sharded, metrics = step(engine, model, pairs[:3] if rank else pairs[3:], 2)  # one process has more micro-batches than the other
assert sharded.keys() == expected.keys() and len(sharded) > 3
for key, gradient in expected.items():
    torch.testing.assert_close(sharded[key].full_tensor(), gradient, rtol=1e-6, atol=1e-9)
assert abs(metrics["nll_loss"] - their_metrics["nll_loss"]) < 1e-9
dist.barrier()  # neither process exits while the other still communicates
dist.destroy_process_group()
sys.stdout.write("the same\\n")
sys.stdout.flush()
os._exit(0)  # gloo's threads may still run, and would abort the process
"""


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["kept", "checkpointed"])
@pytest.mark.parametrize("lora", ["lora", "full"])
@pytest.mark.parametrize("name", ["llama-tied-bias", "gemma2"])
def test_sharded_weights_give_the_gradients_of_unsharded_ones(tmp_path: Path, name: str, lora: str, kept: str) -> None:
    (tmp_path / "sharded.py").write_text(SHARDED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "sharded.py"), name, lora, kept],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the same") == 2, done.stdout
    uneven = [line.split(" of ") for line in done.stdout.splitlines() if " of " in line]
    assert any(counted != all_ for counted, all_ in uneven), done.stdout
