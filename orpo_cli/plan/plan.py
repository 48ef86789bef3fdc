"""The plan: a recipe with no ``auto`` left, and a reason beside each value.

Training obeys it; merge, eval and push read it back from the run directory and never look at the recipe again.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from orpo_cli.recipe.schema import (
    DatasetSection,
    ExportSection,
    HubSection,
    LaunchSection,
    LoraSection,
    MergeSection,
    ModelSection,
    QuantizationSection,
)
from orpo_cli.secret_values import mask_secrets, register_secrets, unmask_secrets

SECRETS_REASON = "environment variables that look secret are used and not shown"

Device = Literal["cpu", "cuda", "mps"]


class Why(BaseModel):
    """Where a value came from: the recipe, the command line, the environment, a default, or decided here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    origin: Literal["recipe", "override", "environment", "default", "decided"]
    reason: str


class EnginePlan(BaseModel):
    """How steps are computed. ``on``: packed, by trl's own path where that turns out not to give the same result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fast_path: Literal["on", "required", "off"]
    max_tokens_per_microbatch: int


class Plan(BaseModel):
    """Every value that a run obeys. ``why`` maps the dotted name of a value to its origin and reason.

    ``training`` holds the keyword arguments of trl's ORPOConfig (without ``output_dir``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    output_dir: str  # absolute
    device: Device
    model: ModelSection
    quantization: QuantizationSection | None
    lora: LoraSection | None
    dataset: DatasetSection
    training: dict[str, Any]
    engine: EnginePlan
    launch: LaunchSection
    merge: MergeSection
    export: ExportSection
    hub: HubSection
    secrets: list[str] = []  # environment variables whose values are in the plan and never in its document
    why: dict[str, Why]

    def total_pairs(self) -> int | None:
        """The pairs that training takes, with those that it takes again; None where epochs say when it ends."""
        steps = self.training.get("max_steps") or -1
        if steps < 1:
            return None
        processes = self.launch.num_processes
        batch = self.training["per_device_train_batch_size"] * self.training["gradient_accumulation_steps"]
        return int(steps * batch * (processes if isinstance(processes, int) else 1))

    def values(self) -> dict[str, Any]:
        """The plan without its reasons, as plain nested values."""
        return self.model_dump(exclude={"why", "secrets"})

    def to_document(self) -> dict[str, Any]:
        """The content of plan.json: nested as a recipe, each leaf ``{"value": …, "origin": …, "reason": …}``."""
        document: dict[str, Any] = mask_secrets(_with_reasons(self.values(), self.why, ""), self.secrets)
        if self.secrets:
            document["secrets"] = {"value": self.secrets, "origin": "decided", "reason": SECRETS_REASON}
        return document

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Plan:
        """Read back what ``to_document`` wrote."""
        why: dict[str, Why] = {}
        values = _without_reasons(document, why, "")
        why.pop("secrets", None)
        register_secrets(values.get("secrets", []))
        return cls.model_validate({**unmask_secrets(values, values.get("secrets", [])), "why": why})

    def to_json(self) -> str:
        """plan.json as text."""
        return json.dumps(self.to_document(), indent=2, ensure_ascii=False) + "\n"


def is_leaf(entry: dict[str, Any]) -> bool:
    """Whether a mapping in plan.json is a value with its reason, not a section."""
    return {"value", "origin", "reason"} <= entry.keys()


def _with_reasons(values: dict[str, Any], why: dict[str, Why], prefix: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in why or not isinstance(value, dict):
            reason = why.get(path, Why(origin="default", reason="default"))
            document[key] = {"value": value, "origin": reason.origin, "reason": reason.reason}
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
