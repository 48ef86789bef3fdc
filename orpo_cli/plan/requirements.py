"""Requirements of a plan that this machine or environment does not meet: `orpo plan` warns, `orpo train` refuses."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.machine import Machine
from orpo_cli.plan.plan import Plan

# Optimizers whose package is not a dependency of this project: start of the name, module, package.
OPTIMIZER_PACKAGES = (
    ("galore_", "galore_torch", "galore-torch"),
    ("apollo_", "apollo_torch", "apollo-torch"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("adalomo", "lomo_optim", "lomo-optim"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("schedule_free_", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("adamw_torch_4bit", "torchao", "torchao"),
    ("adamw_torch_8bit", "torchao", "torchao"),
    ("adamw_anyprecision", "torchdistx", "torchdistx"),
    ("adamw_torch_xla", "torch_xla", "torch-xla"),
    ("adamw_torch_npu_fused", "torch_npu", "torch-npu"),
)
TRACKER_PACKAGES = {"comet_ml": "comet-ml", "dvclive": "dvclive"}  # other packages have the name of their module


def missing_requirements(plan: Plan, machine: Machine) -> Iterator[Problem]:
    """A problem for each requirement that is not met; paths are dotted names, without file and line."""
    yield from _precision(plan, machine)
    if plan.lora is not None and plan.lora.init_lora_weights == "loftq" and plan.device != "cuda":
        yield Problem(
            "loftq-needs-cuda",
            f"is loftq, which peft computes on CUDA GPUs only, and training is on {plan.device}.",
            "lora.init_lora_weights",
            remedy="Use pissa, or train on a machine with a CUDA GPU.",
        )
    optimizer = str(plan.training["optim"])
    for prefix, module, package in OPTIMIZER_PACKAGES:
        if optimizer.startswith(prefix) and importlib.util.find_spec(module) is None:
            yield _missing("training.optim", optimizer, package, "adamw_torch")
    trackers = plan.training.get("report_to") or []
    for name in [trackers] if isinstance(trackers, str) else trackers:
        module = "azureml" if name == "azure_ml" else name
        if name not in ("none", "all") and importlib.util.find_spec(module) is None:
            yield _missing("training.report_to", name, TRACKER_PACKAGES.get(name, name), "none")


def _precision(plan: Plan, machine: Machine) -> Iterator[Problem]:
    if plan.training["bf16"] and plan.device == "cuda" and not machine.bf16:
        yield Problem(
            "bf16-unsupported",
            f"{machine.device_name} does not compute bfloat16.",
            "training.bf16",
            remedy="Write fp16: true instead, or remove it to have the type chosen.",
        )
    if plan.training["fp16"] and plan.device == "cpu":
        yield Problem(
            "fp16-needs-gpu",
            "needs a GPU, and none was found.",
            "training.fp16",
            remedy="Remove it, or train on a machine with a GPU.",
        )


def _missing(path: str, name: str, package: str, other: str) -> Problem:
    return Problem(
        "package-missing",
        f"{name} needs the package {package}, which is not installed.",
        path,
        remedy=f"pip install {package}, or --set {path}={other}.",
    )
