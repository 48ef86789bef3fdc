"""Plan of a smoke run: the recipe's plan with a tiny model, few pairs and two steps, so that it takes seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orpo_cli.planning.plan import ModelPlan, Plan, Why
from orpo_cli.recipe.schema import EvalSplit, LoraSection, Source

MAX_STEPS = 2
PAIRS_PER_SOURCE = 64  # read from each source
MAX_BATCH = 2  # pairs of a micro-batch and micro-batches of a step, at most

Changes = dict[str, tuple[Any, str]]  # the dotted name of a replaced value: the new value, and the reason


def smoke_plan(
    plan: Plan, *, base: Path, layers: int, modules: Sequence[str] | None, pairs: Path | None, output_dir: Path
) -> Plan:
    """``plan`` with a tiny model and a few pairs, for two steps, in one process; every change has its reason.

    ``base``: the folder of the tiny model, which has so many ``layers``. ``modules``: the names of its modules, where it may not have
    those that the recipe names. ``pairs``: a folder with train.jsonl and eval.jsonl, where the recipe's pairs cannot be read.
    """
    changes: Changes = {
        "output_dir": (str(output_dir), "removed at the end"),
        **_model(plan.model, str(base)),
        **_lora(plan.lora, layers, modules),
        **_dataset(plan, pairs),
        **_training(plan.training),
        **_launch(plan),
        "merge.dtype": ("float32", "rounding hides the small logits of random weights"),
    }
    update: dict[str, Any] = {"why": dict(plan.why)}
    for path, (value, reason) in changes.items():
        update["why"][path] = Why(origin="decided", reason=f"--smoke: {reason}")
        section, _, name = path.partition(".")
        before = update.get(section, getattr(plan, section))
        if isinstance(before, dict):
            update[section] = {**before, name: value}
        else:
            update[section] = before.model_copy(update={name: value}) if name else value
    return plan.model_copy(update=update)


def _model(model: ModelPlan, base: str) -> Changes:
    small = model.stored_in(base, chat_template="tokenizer", device_map=None, max_memory=None)
    always = {
        "model_name_or_path": "a small random model",
        "model_revision": "a local folder has no other",
        "chat_template": "saved with the small model",
    }
    where_set = {
        "subfolder": "the small model is not in a subfolder",
        "rope_scaling": "saved with the small model",
        "device_map": "the small model fits on one device",
        "max_memory": "the small model fits on one device",
    }
    return {
        f"model.{name}": (getattr(small, name), reason)
        for name, reason in {**always, **where_set}.items()
        if name in always or getattr(small, name) != getattr(model, name)
    }


def _lora(lora: LoraSection | None, layers: int, modules: Sequence[str] | None) -> Changes:
    changes: Changes = {}
    if lora is not None and lora.layer_replication is not None:
        changes["lora.layer_replication"] = (None, "the small model has other layers")
    if lora is not None and lora.layers_to_transform is not None:
        indexes = [lora.layers_to_transform] if isinstance(lora.layers_to_transform, int) else lora.layers_to_transform
        existing = [index for index in indexes if index < layers] or [layers - 1]
        if existing != indexes:
            changes["lora.layers_to_transform"] = (existing, f"the small model has {layers} layers")
    if lora is not None and modules is not None:
        changes |= _modules_that_exist(lora, modules)
    return changes


def _modules_that_exist(lora: LoraSection, modules: Sequence[str]) -> Changes:
    """Replacements for names of modules that the small model does not have."""
    changes: Changes = {}
    reason = "the small model has other modules"
    targets = lora.target_modules
    if targets != "all-linear" and not all(_exists(each, modules) for each in _names(targets)):
        changes["lora.target_modules"] = ("all-linear", reason)
    for name in ("exclude_modules", "target_parameters"):
        if getattr(lora, name) is not None:
            changes[f"lora.{name}"] = (None, reason)
    if lora.modules_to_save and not all(_exists(each, modules) for each in lora.modules_to_save):
        existing = [each for each in lora.modules_to_save if _exists(each, modules)]
        changes["lora.modules_to_save"] = (existing or None, reason)
    return changes


def _names(targets: str | list[str]) -> list[str]:
    return [targets] if isinstance(targets, str) else targets


def _exists(target: str, modules: Sequence[str]) -> bool:
    """Whether a module has this name, or its dotted path matches this regular expression, as in PEFT."""
    return any(each == target or each.endswith(f".{target}") or re.fullmatch(target, each) for each in modules)


def _dataset(plan: Plan, pairs: Path | None) -> Changes:
    """A few pairs of every source, or the pairs in the folder ``pairs`` instead of all sources."""

    def few(name: str, sources: list[Source]) -> tuple[list[Source], str]:
        if pairs is not None:
            return [Source(path=str(pairs / f"{name}.jsonl"))], "synthetic pairs"
        fewer = [
            source.model_copy(update={"max_samples": min(PAIRS_PER_SOURCE, source.max_samples or PAIRS_PER_SOURCE)})
            for source in sources
        ]
        return fewer, f"at most {PAIRS_PER_SOURCE} pairs of each source"

    held_out = plan.dataset.eval
    changes: Changes = {"dataset.train": few("train", plan.dataset.train)}
    if isinstance(held_out, EvalSplit):
        if held_out.test_size >= 1:
            changes["dataset.eval"] = (EvalSplit(test_size=MAX_BATCH), "of so few pairs")
    elif held_out is not None:
        changes["dataset.eval"] = few("eval", held_out)
    return changes


def _launch(plan: Plan) -> Changes:
    batch, accumulation = (
        min(MAX_BATCH, plan.training[name]) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    changes: Changes = {
        "num_processes": (1, "one is enough"),
        "strategy": ("single", "one process"),
        "pairs_per_step": (batch * accumulation, "less to compute"),
    }
    if plan.launch.num_machines > 1:
        changes["num_machines"] = (1, "one is enough")
    return {f"launch.{name}": change for name, change in changes.items()}


def _training(training: dict[str, Any]) -> Changes:
    wanted: Changes = {
        "max_steps": (MAX_STEPS, "enough to see the weights move"),
        "per_device_train_batch_size": (min(MAX_BATCH, training["per_device_train_batch_size"]), "less to compute"),
        "gradient_accumulation_steps": (min(MAX_BATCH, training["gradient_accumulation_steps"]), "less to compute"),
        "logging_steps": (1, "every step is shown"),
        "report_to": ("none", "nothing is sent anywhere"),
    }
    if training.get("push_to_hub"):
        wanted["push_to_hub"] = (False, "nothing is sent anywhere")
    if training.get("save_before"):
        wanted["save_before"] = (None, "two steps need no limit")
    for what, tried in (("eval", "evaluation"), ("save", "checkpoint")):
        if training.get(f"{what}_strategy") == "steps":
            wanted[f"{what}_steps"] = (1, f"every step tries the {tried}")
    if training.get("eval_delay"):
        wanted["eval_delay"] = (0, "the first evaluation comes at once")
    return {f"training.{name}": change for name, change in wanted.items() if training.get(name) != change[0]}
