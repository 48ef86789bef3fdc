"""Plan of a smoke run: the recipe's plan with a tiny model, few pairs and two steps, so that it takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.plan.plan import ModelPlan, Plan, Why
from orpo_cli.recipe.schema import EvalSplit, LoraSection, Source

MAX_STEPS = 2
PAIRS_PER_SOURCE = 64  # read from each source
MAX_BATCH = 2  # pairs of a micro-batch and micro-batches of a step, at most


@dataclass(frozen=True)
class Replacements:
    """What a smoke run uses instead of the recipe's model, pairs and output directory."""

    base: Path  # a folder with a tiny model
    layers: int  # of the tiny model
    pairs: Path | None  # a folder with train.jsonl and eval.jsonl, where the recipe's pairs cannot be read
    output_dir: Path


class _Changes:
    """Reasons of the replaced values."""

    def __init__(self, plan: Plan) -> None:
        self.why = dict(plan.why)

    def record(self, path: str, value: Any, reason: str) -> Any:
        self.why[path] = Why(origin="decided", reason=f"--smoke: {reason}")
        return value


def smoke_plan(plan: Plan, replacements: Replacements) -> Plan:
    """``plan`` with a tiny model and a few pairs, for two steps, in one process; every change has its reason."""
    changes = _Changes(plan)
    record = changes.record
    return plan.model_copy(
        update={
            "output_dir": record("output_dir", str(replacements.output_dir), "removed at the end"),
            "model": _model(changes, plan.model, str(replacements.base)),
            "lora": plan.lora and _lora(changes, plan.lora, replacements.layers),
            "dataset": plan.dataset.model_copy(update=_dataset(changes, plan, replacements.pairs)),
            "training": {**plan.training, **_training(changes, plan.training)},
            "launch": plan.launch.model_copy(
                update={
                    "num_processes": record("launch.num_processes", 1, "one is enough"),
                    "strategy": record("launch.strategy", "single", "one process"),
                }
            ),
            "merge": plan.merge.model_copy(
                update={"dtype": record("merge.dtype", "float32", "rounding hides the small logits of random weights")}
            ),
            "why": changes.why,
        }
    )


def _model(changes: _Changes, model: ModelPlan, base: str) -> ModelPlan:
    small = model.stored_in(base, chat_template="tokenizer", device_map=None, max_memory=None)
    reasons = {
        "model_name_or_path": "a small random model",
        "model_revision": "a local folder has no other",
        "chat_template": "saved with the small model",
        "subfolder": "the small model is not in a subfolder",
        "rope_scaling": "saved with the small model",
        "device_map": "the small model fits on one device",
        "max_memory": "the small model fits on one device",
    }
    for name, reason in reasons.items():
        value = getattr(small, name)
        if value != getattr(model, name) or name in ("model_name_or_path", "model_revision", "chat_template"):
            changes.record(f"model.{name}", value, reason)
    return small


def _lora(changes: _Changes, lora: LoraSection, layers: int) -> LoraSection:
    if lora.layer_replication is not None:
        reason = "the small model has other layers"
        lora = lora.model_copy(update={"layer_replication": changes.record("lora.layer_replication", None, reason)})
    if lora.layers_to_transform is None:
        return lora
    indexes = [lora.layers_to_transform] if isinstance(lora.layers_to_transform, int) else lora.layers_to_transform
    existing = [index for index in indexes if index < layers] or [layers - 1]
    if existing == indexes:
        return lora
    return lora.model_copy(
        update={
            "layers_to_transform": changes.record(
                "lora.layers_to_transform", existing, f"the small model has {layers} layers"
            )
        }
    )


def _dataset(changes: _Changes, plan: Plan, pairs: Path | None) -> dict[str, Any]:
    """A few pairs of every source, or the pairs in the folder ``pairs`` instead of all sources."""

    def few(path: str, sources: list[Source]) -> list[Source]:
        if pairs is not None:
            synthetic = pairs / f"{path.rpartition('.')[2]}.jsonl"
            return changes.record(path, [Source(path=str(synthetic))], "synthetic pairs")  # type: ignore[no-any-return]
        counts = [min(PAIRS_PER_SOURCE, source.max_samples or PAIRS_PER_SOURCE) for source in sources]
        fewer = [
            source.model_copy(update={"max_samples": count}) for source, count in zip(sources, counts, strict=True)
        ]
        return changes.record(path, fewer, f"at most {PAIRS_PER_SOURCE} pairs of each source")  # type: ignore[no-any-return]

    held_out = plan.dataset.eval
    update: dict[str, Any] = {"train": few("dataset.train", plan.dataset.train)}
    if isinstance(held_out, EvalSplit):
        if held_out.test_size >= 1:
            update["eval"] = changes.record("dataset.eval", EvalSplit(test_size=MAX_BATCH), "of so few pairs")
    elif held_out is not None:
        update["eval"] = few("dataset.eval", held_out)
    return update


def _training(changes: _Changes, training: dict[str, Any]) -> dict[str, Any]:
    wanted: dict[str, tuple[Any, str]] = {
        "max_steps": (MAX_STEPS, "enough to see the weights move"),
        "per_device_train_batch_size": (min(MAX_BATCH, training["per_device_train_batch_size"]), "less to compute"),
        "gradient_accumulation_steps": (min(MAX_BATCH, training["gradient_accumulation_steps"]), "less to compute"),
        "logging_steps": (1, "every step is shown"),
        "report_to": ("none", "nothing is sent anywhere"),
    }
    if training.get("push_to_hub"):
        wanted["push_to_hub"] = (False, "nothing is sent anywhere")
    for what in ("eval", "save"):
        if training.get(f"{what}_strategy") == "steps":
            wanted[f"{what}_steps"] = (1, f"every step tries the {'evaluation' if what == 'eval' else 'checkpoint'}")
    if training.get("eval_delay"):
        wanted["eval_delay"] = (0, "the first evaluation comes at once")
    return {
        name: changes.record(f"training.{name}", value, reason)
        for name, (value, reason) in wanted.items()
        if training.get(name) != value
    }
