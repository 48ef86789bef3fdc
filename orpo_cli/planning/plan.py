"""The plan: the recipe with every value decided, and a reason for each value.

Training reads the plan. Merge, export, evaluation and push read it from the run directory; they never read the recipe.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from orpo_cli.control_characters import escape_json_controls
from orpo_cli.machine import Device
from orpo_cli.recipe.schema import (
    DatasetSection,
    Dtype,
    ExportSection,
    HubSection,
    LaunchSection,
    LoraSection,
    MergeSection,
    ModelSection,
    QuantizationSection,
)
from orpo_cli.recipe.source.yaml_writer import block_yaml
from orpo_cli.secret_values import mask_secrets, register_secrets, unmask_secrets

# Dotted names of the values that the memory estimate decides.
CHECKPOINTING, TOKEN_BUDGET = "training.gradient_checkpointing", "engine.max_tokens_per_microbatch"
CHECKPOINTING_OPTIONS = "training.activation_checkpointing_kwargs"
STRATEGY, DEEPSPEED_CONFIG = "launch.strategy", "launch.deepspeed_config"
Decided = tuple[Any, str]  # a value and the reason for it
SECRETS_REASON = "environment variables that look secret are used and not shown"


class Why(BaseModel):
    """Origin of a value, and the reason for it. ``decided``: chosen here, for this model and machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: Literal["recipe", "override", "environment", "default", "decided"]
    reason: str


class ModelPlan(ModelSection):
    """The base model, with its dtype and attention kernel decided."""

    dtype: Dtype
    attn_implementation: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"]


class QuantizationPlan(QuantizationSection):
    """Quantization, with the dtype of 4-bit products decided."""

    bnb_4bit_compute_dtype: Dtype


class DatasetPlan(DatasetSection):
    """Sources and rules for pairs, with the longest prompt decided."""

    max_prompt_length: int


class LaunchDraft(LaunchSection):
    """Processes, with their number and the pairs of a step decided; the memory estimate decides an automatic strategy.

    ``machine_rank`` and ``main_process_ip`` are None if there are several machines and this one does not know its place.
    """

    num_processes: int
    machine_rank: int | None = None
    main_process_ip: str | None = None
    main_process_port: int = 0  # a free port
    num_cpu_threads_per_process: int | None = None  # None: torch decides
    deepspeed_config: dict[str, Any] | None = None
    pairs_per_step: int  # of all processes


class LaunchPlan(LaunchDraft):
    """Processes, with their strategy decided, too."""

    strategy: Literal["single", "ddp", "fsdp", "deepspeed"]


class MergePlan(MergeSection):
    """The merged model, with its dtype decided."""

    dtype: Dtype


class ExportPlan(ExportSection):
    """Exported files, with their dtype decided."""

    dtype: Dtype


class EngineDraft(BaseModel):
    """Computation of steps, before the memory estimate.

    ``on``: packed steps; trl's own step where the first pairs differ. ``required``: an error where they differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fast_path: Literal["on", "required", "off"]
    max_tokens_per_microbatch: int | None  # None: the memory estimate decides it


class EnginePlan(EngineDraft):
    """Computation of steps."""

    max_tokens_per_microbatch: int


class PlanDraft(BaseModel):
    """The plan before the memory estimate: the values that ``undecided`` names are None or auto.

    ``why`` maps the dotted name of a value to its origin and reason. ``training`` has the keyword arguments of trl's
    ORPOConfig (without ``output_dir``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    output_dir: str  # absolute
    tags: list[str] = []
    device: Device
    model: ModelPlan
    quantization: QuantizationPlan | None
    lora: LoraSection | None
    dataset: DatasetPlan
    training: dict[str, Any]
    engine: EngineDraft
    launch: LaunchDraft
    merge: MergePlan
    export: ExportPlan
    hub: HubSection
    secrets: list[str] = []  # environment variables whose values are in the plan and never in its document
    why: dict[str, Why]

    def total_pairs(self) -> int | None:
        """Pairs that training takes, repetitions included; None where the number of epochs ends training."""
        steps = self.training.get("max_steps") or -1
        if steps < 1:
            return None
        return int(steps * self.launch.pairs_per_step)

    def values(self) -> dict[str, Any]:
        """The values without their reasons, as nested dictionaries."""
        return self.model_dump(exclude={"why", "secrets"})

    def undecided(self) -> set[str]:
        """The dotted names of the values that the memory estimate decides."""
        values = {
            CHECKPOINTING: self.training.get("gradient_checkpointing", False),
            TOKEN_BUDGET: self.engine.max_tokens_per_microbatch,
            STRATEGY: None if self.launch.strategy == "auto" else self.launch.strategy,
        }
        return {path for path, value in values.items() if value is None}

    def complete(
        self,
        *,
        gradient_checkpointing: Decided,
        max_tokens_per_microbatch: Decided,
        strategy: Decided = ("ddp", "several processes, each with the whole model"),
    ) -> Plan:
        """The plan with these values where they are undecided."""
        decided = {CHECKPOINTING: gradient_checkpointing, TOKEN_BUDGET: max_tokens_per_microbatch, STRATEGY: strategy}
        sections = {"training": dict(self.training), "engine": dict(self.engine), "launch": dict(self.launch)}
        why = dict(self.why)
        for path in self.undecided():
            section, _, name = path.partition(".")
            sections[section][name], reason = decided[path]
            why[path] = Why(origin="decided", reason=reason)
        return Plan(**{**dict(self), **sections, "why": why})


class Plan(PlanDraft):
    """Every value of a run, decided."""

    engine: EnginePlan
    launch: LaunchPlan

    def __repr__(self) -> str:
        return f"Plan({self.name!r})"

    def __str__(self) -> str:
        """The values as YAML, with the names of secrets in place of their values."""
        return block_yaml(json.loads(json.dumps(mask_secrets(self.values(), self.secrets))))

    def to_document(self) -> dict[str, Any]:
        """The content of plan.json: nested as a recipe, each leaf ``{"value": …, "origin": …, "reason": …}``."""
        document = _with_reasons(mask_secrets(self.values(), self.secrets), self.why, "")
        if self.secrets:
            document["secrets"] = {"value": self.secrets, "origin": "decided", "reason": SECRETS_REASON}
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Plan:
        """The plan that ``to_document`` wrote, in this version or an earlier one."""
        why: dict[str, Why] = {}
        values = _without_reasons(document, why, "")
        why.pop("secrets", None)
        merged = "model" if values["lora"] is None else "merge"
        values["export"].setdefault("dtype", values[merged]["dtype"])  # version 0.1.0 had no such key
        _add_launch_defaults(values)
        register_secrets(values.get("secrets", []))
        return cls.model_validate({**unmask_secrets(values, values.get("secrets", [])), "why": why})

    def to_json(self) -> str:
        """The text of plan.json."""
        return escape_json_controls(json.dumps(self.to_document(), indent=2, ensure_ascii=False)) + "\n"


def _add_launch_defaults(values: dict[str, Any]) -> None:
    """Add the values of one process, which plans of version 0.1.0 do not have."""
    launch, training = values["launch"], values["training"]
    if "pairs_per_step" not in launch:
        pairs = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
        launch |= {"machine_rank": 0, "main_process_ip": "127.0.0.1", "pairs_per_step": pairs * launch["num_processes"]}


def is_leaf(entry: dict[str, Any]) -> bool:
    """Whether a mapping in plan.json is a value with its reason, not a section."""
    return {"value", "origin", "reason"} <= entry.keys()


def _with_reasons(values: dict[str, Any], why: dict[str, Why], prefix: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in why or not isinstance(value, dict):
            document[key] = {"value": value, **dict(why.get(path, Why(origin="default", reason="default")))}
        else:
            document[key] = _with_reasons(value, why, f"{path}.")
    return document


def _without_reasons(document: dict[str, Any], why: dict[str, Why], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, entry in document.items():
        path = f"{prefix}{key}"
        if is_leaf(entry):
            values[key] = entry["value"]
            why[path] = Why(origin=entry["origin"], reason=entry["reason"])
        else:
            values[key] = _without_reasons(entry, why, f"{path}.")
    return values
