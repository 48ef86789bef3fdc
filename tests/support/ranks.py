"""Trainings of a tiny model on several ranks: ``python -m support.ranks FOLDER CASE…`` under torchrun, or ``train_case``.

``saving`` before the cases selects those of ``SAVING_CASES``, ``zero-saving`` those of ``ZERO_SAVING_CASES``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from orpo_cli.data.prepare import prepare
from orpo_cli.errors import RunError
from orpo_cli.machine import probe
from orpo_cli.model.base_model import load_base, weights_device
from orpo_cli.model.model_source import ModelSource
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.load import load_recipe
from orpo_cli.training.agreement import Agreement
from orpo_cli.training.engine import fused_lora
from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.parity_check import CHECKED_PAIRS
from orpo_cli.training.full_state import full_tensor
from orpo_cli.training.gradient_sum import average_gradients
from orpo_cli.training.make_trainer import TrainingInputs, make_trainer
from orpo_cli.training.metrics_log import MetricsCallback
from orpo_cli.training.packed_trainer import PackedTrainer
from orpo_cli.training.trained_totals import TrainedTotals
from support.json_lines import write_json_lines
from support.tiny import pairs, save_tiny_model, tiny_llama, tiny_tokenizer

PAIRS_PER_STEP = 8
CASES: dict[str, dict[str, Any]] = {
    "packed-lora": {"pairs": 21, "held_out": 7, "num_train_epochs": 2},
    "packed-full": {"lora": False, "optim": "sgd"},
    "packed-empty-share": {"pairs": 9},
    "packed-weights": {"pairs": 21, "held_out": 7, "weights": True},
    "packed-checkpointing": {"gradient_checkpointing": True},
    "packed-sequential": {"train_sampling_strategy": "sequential", "dataloader_drop_last": True},
    "packed-memory": {"num_train_epochs": 2, "failing": "memory"},
    "packed-not-finite": {"num_train_epochs": 2, "failing": "nan"},
    "fallback": {"fast_path": "auto", "failing": "parity"},
    "trl-lora": {"pairs": 21, "held_out": 7, "fast_path": "off"},
    "trl-weights": {"pairs": 21, "held_out": 7, "fast_path": "off", "weights": True},
    "fsdp-weights": {"strategy": "fsdp", "pairs": 21, "held_out": 7, "weights": True},
    "fsdp-trl-weights": {"strategy": "fsdp", "pairs": 9, "fast_path": "off", "weights": True},
    "trl-full": {"pairs": 9, "lora": False, "fast_path": "off", "optim": "sgd"},
    "fsdp-lora": {"strategy": "fsdp", "pairs": 21, "held_out": 7, "gradient_checkpointing": True},
    "fsdp-full": {"strategy": "fsdp", "pairs": 9, "held_out": 7, "lora": False},
    "fsdp-untied-lora": {"strategy": "fsdp", "tied": False},
    "fsdp-untied-full": {"strategy": "fsdp", "tied": False, "lora": False, "gradient_checkpointing": True},
    "fsdp-trl-lora": {"strategy": "fsdp", "pairs": 21, "held_out": 7, "fast_path": "off"},
    "fsdp-trl-full": {"strategy": "fsdp", "pairs": 9, "lora": False, "fast_path": "off", "optim": "sgd"},
    "fsdp-4bit": {"strategy": "fsdp", "held_out": 7, "4bit": True},
    "fsdp-fallback": {"strategy": "fsdp", "pairs": 9, "held_out": 7, "fast_path": "auto", "failing": "gradient"},
    "fsdp-memory": {"strategy": "fsdp", "num_train_epochs": 2, "failing": "memory"},
}
ZERO_CASES: dict[str, dict[str, Any]] = {
    f"zero{stage}-{name}": {"strategy": f"zero{stage}", **case}
    for stage in (1, 2, 3)
    for name, case in {
        "lora": {"pairs": 21, "held_out": 7, "num_train_epochs": 2, "gradient_checkpointing": True},
        "full": {"pairs": 9, "held_out": 7, "lora": False},
        "trl": {"pairs": 21, "held_out": 7, "fast_path": "off"},
    }.items()
}
SAVES = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
BEST = {**SAVES, "max_steps": 2, "held_out": 7, "load_best_model_at_end": True, "learning_rate": 1.0}  # step 2 is worse
RESUMED_STEP = 2
SAVING_CASES: dict[str, dict[str, Any]] = {  # `resume`: the case whose checkpoint is continued
    "ddp-lora": SAVES,
    "ddp-full": {**SAVES, "lora": False},
    "fsdp-lora": {**SAVES, "strategy": "fsdp"},
    "fsdp-full": {**SAVES, "strategy": "fsdp", "lora": False},
    "ddp-lora-then-fsdp": {"resume": "ddp-lora", "strategy": "fsdp", "num_train_epochs": 2},
    "ddp-full-then-fsdp": {"resume": "ddp-full", "strategy": "fsdp", "lora": False, "num_train_epochs": 2},
    "fsdp-lora-then-ddp": {"resume": "fsdp-lora", "num_train_epochs": 2},
    "fsdp-full-then-ddp": {"resume": "fsdp-full", "lora": False, "num_train_epochs": 2},
    "fsdp-best-lora": {**BEST, "strategy": "fsdp"},
    "fsdp-best-full": {**BEST, "strategy": "fsdp", "lora": False},
}
ZERO_SAVING_CASES: dict[str, dict[str, Any]] = {
    "ddp-lora": SAVES,
    "ddp-full": {**SAVES, "lora": False},
    **{
        f"zero{stage}-{kind}": {**SAVES, "strategy": f"zero{stage}", "lora": kind == "lora"}
        for stage in (1, 2, 3)
        for kind in ("lora", "full")
    },
    **{
        f"ddp-{kind}-then-zero{stage}": {
            "resume": f"ddp-{kind}", "strategy": f"zero{stage}", "lora": kind == "lora", "num_train_epochs": 2,
        }
        for stage in (2, 3)
        for kind in ("lora", "full")
    },
    **{
        f"zero{stage}-{kind}-then-ddp": {"resume": f"zero{stage}-{kind}", "lora": kind == "lora", "num_train_epochs": 2}
        for stage in (1, 3)
        for kind in ("lora", "full")
    },
    "zero2-best-lora": {**BEST, "strategy": "zero2"},
    "zero2-best-full": {**BEST, "strategy": "zero2", "lora": False},
    "zero3-best-lora": {**BEST, "strategy": "zero3"},
}  # fmt: skip


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def train_case(folder: Path, name: str, cases: dict[str, dict[str, Any]] = CASES) -> dict[str, Any]:
    """Train a case; the log, metrics.jsonl, the notes, the error, the tokens of this rank, and sums of the weights."""
    training = {"optim": "adamw_torch", "num_train_epochs": 1, "gradient_checkpointing": False} | cases[name]
    held_out, failing, lora = training.pop("held_out", 0), training.pop("failing", None), training.pop("lora", True)
    count, fast_path = training.pop("pairs", 21), training.pop("fast_path", "required")
    alone = training.pop("alone", False)  # also one process has the strategy
    strategy, tied = training.pop("strategy", "auto"), training.pop("tied", True)
    resumed, quantized = training.pop("resume", None), training.pop("4bit", False)
    checkpoint = resumed and str(folder / f"{resumed}-checkpoints" / f"checkpoint-{RESUMED_STEP}")
    checkpoints = folder / f"{name}-checkpoints"  # of all ranks
    folder = folder / f"{name}-{rank()}"
    folder.mkdir(parents=True)
    columns = {"columns": {"weight": "importance"}} if training.pop("weights", False) else {}
    write_weighted_pairs(folder / "train.jsonl", count)
    dataset = {"train": {"path": str(folder / "train.jsonl"), **columns}, "max_prompt_length": 128}
    if held_out:
        dataset["eval"] = {"path": str(write_weighted_pairs(folder / "eval.jsonl", held_out, start=50)), **columns}
        evaluation = (
            {"eval_strategy": "steps", "eval_steps": 1} if "save_steps" in training else {"eval_strategy": "epoch"}
        )
        training |= {**evaluation, "per_device_eval_batch_size": 2}
    if not (model_folder := folder.parent / f"model-{rank()}").exists():
        save_tiny_model(model_folder)
    quantization = {"load_in_4bit": True, "bnb_4bit_quant_storage": "float32"}
    recipe = {
        "model": {"model_name_or_path": str(model_folder), "dtype": "float32"},
        "dataset": dataset,
        **({"quantization": quantization} if quantized else {}),
        **({"lora": {"r": 4, "target_modules": "all-linear"}} if lora else {}),
        "training": {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": PAIRS_PER_STEP // 2 // world_size(),
            "learning_rate": 1e-3, "max_length": 256, "save_strategy": "no", "use_cpu": True, "logging_steps": 1, "seed": 3,
            "max_grad_norm": 0.5, "lr_scheduler_type": "constant", **training,
        },
        "engine": {"fast_path": fast_path, **({} if fast_path == "off" else {"max_tokens_per_microbatch": 200})},
        "launch": {"num_processes": world_size(), **(launch_section(strategy) if world_size() > 1 or alone else {})},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    plan, tokenizer = resolve(load_recipe(str(folder / "recipe.yaml")), probe()), tiny_tokenizer()
    data = prepare(plan.dataset, tokenizer, max_length=256, max_prompt_length=128, note=lambda _: None)
    notes: list[str] = []
    before = TrainedTotals.of_checkpoint(Path(checkpoint) if checkpoint else None, PAIRS_PER_STEP)
    metrics = MetricsCallback(folder / "metrics.jsonl", Observer(), lambda: None, before=before)
    model = tiny_llama(len(tokenizer), tied=tied)
    if quantized:
        model = load_base(ModelSource(plan.model), plan.quantization, weights_device(plan))
        fused_lora._is_4bit = lambda layer: type(layer).__name__ == "Linear4bit"  # on a CPU, too
    inputs = TrainingInputs(model, tokenizer, data.train, data.eval)
    trainer = metrics.trainer = make_trainer(plan, checkpoints, inputs, [metrics], notes.append)
    trainer.checkpoint_totals = metrics.checkpoint_totals
    error = ""
    try:
        with failing_rank(failing):
            trainer.train(resume_from_checkpoint=checkpoint)
    except RunError as caught:
        error = str(caught)
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    gather = full_tensor if trainer.zero is None else trainer.zero.full_weight
    return {
        "zero_stage": 0 if trainer.zero is None else trainer.zero.model.zero_optimization_stage(),
        "history": trainer.state.log_history,
        "metrics": [line for line in map(json.loads, lines) if line["kind"] != "event"],
        "notes": notes,
        "error": error,
        "tokens": trainer.tokens_seen,
        "sharded": any(isinstance(each, DTensor) for each in trainer.model.parameters()),
        "weights": {
            name: gather(each).detach().double().sum().item()
            for name, each in trainer.model.named_parameters()
            if each.requires_grad
        },
    }


def write_weighted_pairs(path: Path, count: int, start: int = 0) -> Path:
    """Write ``pairs`` with a column of weights, which only the cases with ``weights`` read."""
    rows = [{**pair, "importance": 0.5 + 1.5 * (number % 4)} for number, pair in enumerate(pairs(count, start))]
    write_json_lines(path, rows)
    return path


def launch_section(strategy: str) -> dict[str, Any]:
    if not strategy.startswith("zero"):
        return {"strategy": strategy}
    zero = {
        "stage": int(strategy[-1]),
        "reduce_bucket_size": 20_000,
        "overlap_comm": False,
        "stage3_param_persistence_threshold": 0,
    }
    return {"strategy": "deepspeed", "deepspeed_config": {"zero_optimization": zero}}


class Observer:
    """Observer that shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@contextmanager
def failing_rank(kind: str | None) -> Iterator[None]:
    """Context in which the last of several ranks fails: it runs out of memory in two micro-batches, the loss of one is not
    a number, or the comparison of the first pairs finds a difference, of the gradient alone or what it says.
    """
    loss_share, parity_failure, calls = Engine.loss_share, PackedTrainer._parity_failure, list[int]()

    def failing_loss_share(engine: Engine, model: Any, batch: Any) -> torch.Tensor:
        loss = loss_share(engine, model, batch)
        if engine._totals.num_pairs <= CHECKED_PAIRS:  # the comparison of the first pairs
            return loss.detach() + (loss - loss.detach()) * 1.1 if kind == "gradient" else loss
        calls.append(batch.num_tokens)
        if kind == "memory" and len(calls) in (9, 12):
            torch.rand(3)  # random numbers drawn by the failed try
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return loss * float("nan") if kind == "nan" and len(calls) == 9 else loss

    if kind is not None and rank() == world_size() - 1 and world_size() > 1:
        if kind == "parity":
            PackedTrainer._parity_failure = lambda *_: "it differs"  # type: ignore[method-assign,assignment]
        else:
            Engine.loss_share = failing_loss_share  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.loss_share, PackedTrainer._parity_failure = loss_share, parity_failure  # type: ignore[method-assign]


def averaged_gradients() -> dict[str, list[float] | None]:
    """Means of gradients that not every rank has; rank r has gradients of r + 1."""
    shapes = {"everywhere": (3,), "nowhere": (2,), "first": (2, 2), "half": (4,), "large": (7 << 20,)}
    parameters = {
        name: torch.nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16 if name == "half" else torch.float32))
        for name, shape in shapes.items()
    }
    for name, parameter in parameters.items():
        if name != "nowhere" and not (name == "first" and rank()):
            parameter.grad = torch.full_like(parameter, rank() + 1.0)
    average_gradients(parameters.values(), Agreement(world_size()))
    return {name: None if p.grad is None else p.grad.flatten()[:4].tolist() for name, p in parameters.items()}


if __name__ == "__main__":
    out, *names = sys.argv[1:]
    sets = {"saving": SAVING_CASES, "zero-saving": ZERO_SAVING_CASES}
    cases = sets.get(names[0], CASES | ZERO_CASES)
    save_tiny_model(Path(out) / f"model-{rank()}")  # with a process group, rank 0 alone would write it
    found = {name: train_case(Path(out), name, cases) for name in names if name not in sets}
    found["averaged"] = averaged_gradients()
    (Path(out) / f"rank-{rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # gloo's threads may still run, and would abort the process
