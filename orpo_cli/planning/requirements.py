"""Requirements of a plan that this machine or environment does not meet: `orpo plan` warns, `orpo train` refuses."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.machine import Machine
from orpo_cli.planning.launch import other_sampling, steps_in_backward
from orpo_cli.planning.plan import Plan

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
    yield from _launch(plan, machine)
    yield from _several_processes(plan)
    if plan.lora is not None and plan.lora.init_lora_weights == "loftq" and plan.device != "cuda":
        yield Problem(
            "loftq-needs-cuda",
            f"is loftq, which peft computes on CUDA GPUs only, and training is on {plan.device}.",
            "lora.init_lora_weights",
            remedy="Use pissa, or train on a machine with a CUDA GPU.",
        )
    optimizer = str(plan.training["optim"])
    excluded = plan.launch.num_processes > 1 and steps_in_backward(optimizer)  # its package would not help
    for prefix, module, package in OPTIMIZER_PACKAGES:
        if not excluded and optimizer.startswith(prefix) and importlib.util.find_spec(module) is None:
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


def _launch(plan: Plan, machine: Machine) -> Iterator[Problem]:
    launch = plan.launch
    here = launch.num_processes // launch.num_machines
    devices = machine.device_count if launch.gpu_ids == "all" else launch.gpu_ids.count(",") + 1
    chosen_cpu = plan.device == "cpu" and plan.why["training.use_cpu"].origin != "decided"
    if here > devices and not chosen_cpu:
        found = "no GPU" if machine.device == "cpu" else f"{devices} x {machine.device_name}"
        machines = "" if launch.num_machines == 1 else f", {here} of them on each machine"
        yield Problem(
            "too-few-devices",
            f"is {launch.num_processes}{machines}, and this machine has {found}.",
            "launch.num_processes",
            remedy="Use fewer processes, and multiply training.gradient_accumulation_steps for the same step.",
        )
    if launch.num_machines > 1:
        for name in ("machine_rank", "main_process_ip"):
            if getattr(launch, name) is None:
                yield Problem(
                    "machine-unknown",
                    f"is not set, and nothing in the environment says it: there are {launch.num_machines} machines.",
                    f"launch.{name}",
                    remedy=f"Start each machine with its own value: --set launch.{name}=…",
                )
    if launch.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        yield _missing(
            "launch.strategy",
            "deepspeed",
            "deepspeed",
            "fsdp --set launch.deepspeed_config=null",
            "'orpo-cli[deepspeed]'",
        )


def _several_processes(plan: Plan) -> Iterator[Problem]:
    """Settings that several processes exclude. auto is one process with them."""
    if plan.launch.num_processes == 1:
        return
    optimizer = str(plan.training["optim"])
    if steps_in_backward(optimizer):
        yield Problem(
            "optimizer-processes",
            f"is {optimizer}, which changes the weights in the backward pass, but there are {plan.launch.num_processes} processes, "
            "whose gradients are summed after it.",
            "training.optim",
            remedy="Use adamw_torch_fused, or one process: --set launch.num_processes=1.",
        )
    for path, what in other_sampling(plan.training).items():
        yield Problem(
            "distributed-sampling",
            f"{what}, but there are {plan.launch.num_processes} processes, to which orpo-cli deals the pairs of a step by their "
            "tokens.",
            path,
            remedy="Remove it.",
        )


def _missing(path: str, name: str, package: str, other: str, installed_by: str | None = None) -> Problem:
    return Problem(
        "package-missing",
        f"{name} needs the package {package}, which is not installed.",
        path,
        remedy=f"pip install {installed_by or package}, or --set {path}={other}.",
    )
