"""Launch of a plan: number of processes and pairs of a step, strategy, and the place of this machine among several."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.machine import Device, Machine
from orpo_cli.planning.decisions import Decisions
from orpo_cli.planning.plan import LaunchDraft
from orpo_cli.recipe.schema import LaunchSection, Recipe

WORLD_SIZE = "WORLD_SIZE"  # set where another launcher has started the processes
DEFAULT_ZERO_STAGE = 2  # accelerate's
DEFAULT_PORT = 29500  # torch's and accelerate's


def is_other_machine(launch: LaunchSection) -> bool:
    """Whether this is one of several machines, and not the first."""
    rank = os.environ.get("SLURM_PROCID", "") if launch.machine_rank == "auto" else str(launch.machine_rank)
    return launch.num_machines > 1 and rank not in ("", "0", "None")


def decide_processes(decisions: Decisions, machine: Machine, device: Device) -> int:
    """The number of processes of all machines. auto: one for each GPU, and one without GPUs."""
    launch = decisions.loaded.recipe.launch
    path = "launch.num_processes"
    if launch.num_processes != "auto":
        return launch.num_processes
    started = os.environ.get(WORLD_SIZE, "")
    if started.isdecimal() and int(started) > 1:
        return decisions.decide(path, int(started), f"{WORLD_SIZE} in the environment")
    if launch.strategy == "single":
        return decisions.decide(path, 1, "launch.strategy is single")
    if launch.num_machines == 1 and (reason := _reason_for_one_process(decisions.loaded.recipe)):
        return decisions.decide(path, 1, reason)
    if device != "cuda":
        return decisions.decide(path, launch.num_machines, f"one on {device}")
    here = machine.device_count if launch.gpu_ids == "all" else launch.gpu_ids.count(",") + 1
    machines = "" if launch.num_machines == 1 else f" on each of {launch.num_machines} machines"
    return decisions.decide(path, here * launch.num_machines, f"{here} x {machine.device_name}{machines}")


def steps_in_backward(optimizer: str) -> bool:
    """Whether an optimizer changes the weights in the backward pass, before the gradients of all processes are summed."""
    return "lomo" in optimizer or optimizer.endswith("_layerwise")


def other_sampling(training: Mapping[str, Any]) -> dict[str, str]:
    """Settings of the Trainer and of accelerate that distribute pairs over processes, which ``StepSampler`` does."""
    found = {}
    if training.get("train_sampling_strategy") == "batch_rebalance":
        found["training.train_sampling_strategy"] = "is batch_rebalance"
    config = training.get("accelerator_config")
    if isinstance(config, dict) and config.get("split_batches"):
        found["training.accelerator_config.split_batches"] = "is true"
    return found


def _reason_for_one_process(recipe: Recipe) -> str | None:
    """Why auto is one process also where there are several GPUs; None where it is not."""
    if recipe.model.device_map is not None:
        return "model.device_map spreads the model over the GPUs"
    if recipe.training.optim is not None and steps_in_backward(recipe.training.optim):
        return f"{recipe.training.optim} changes the weights in the backward pass"
    return next((f"{path} {what}" for path, what in other_sampling(dict(recipe.training)).items()), None)


def decide_launch(decisions: Decisions, machine: Machine, processes: int, pairs_per_step: int) -> LaunchDraft:
    """The launch section, without the strategy of several processes. Raises UsageError if DeepSpeed's file cannot be read."""
    launch = decisions.loaded.recipe.launch
    strategy = _strategy(decisions, processes)
    reason = "training.per_device_train_batch_size × training.gradient_accumulation_steps"
    if launch.num_processes not in ("auto", 1):
        written = decisions.loaded.recipe.training.gradient_accumulation_steps is not None
        reason = (
            f"{reason} × launch.num_processes" if written else "the default; gradient_accumulation_steps is not set"
        )
    decided: dict[str, Any] = {
        "num_processes": processes,
        "strategy": strategy,
        "pairs_per_step": decisions.decide("launch.pairs_per_step", pairs_per_step, reason),
        "deepspeed_config": _deepspeed_config(decisions, strategy),
        "num_cpu_threads_per_process": _threads(decisions, machine, processes, strategy),
        **_rendezvous(decisions),
    }
    return LaunchDraft(**{**dict(launch), **decided})


def _strategy(decisions: Decisions, processes: int) -> str:
    launch = decisions.loaded.recipe.launch
    strategy = launch.written_strategy()
    path = "launch.strategy"
    if launch.strategy == "auto" and strategy != "auto":
        return decisions.decide(path, strategy, f"launch.{strategy}_config")
    if processes == 1 and strategy in ("auto", "ddp"):
        return decisions.decide(path, "single", "one process")
    return strategy


def _threads(decisions: Decisions, machine: Machine, processes: int, strategy: str) -> int | None:
    """None in one process, where torch decides."""
    launch = decisions.loaded.recipe.launch
    if launch.num_cpu_threads_per_process != "auto":
        return launch.num_cpu_threads_per_process
    path = "launch.num_cpu_threads_per_process"
    if processes == 1 and strategy == "single":
        return decisions.decide(path, None, "torch decides in one process")
    here = max(1, processes // launch.num_machines)
    reason = f"{machine.cpu_count} CPUs for {here} processes of this machine"
    return decisions.decide(path, max(1, machine.cpu_count // here), reason)


def _rendezvous(decisions: Decisions) -> dict[str, Any]:
    """Number of this machine, address and port of machine 0; None where only the machine itself can know."""
    launch = decisions.loaded.recipe.launch
    several = launch.num_machines > 1
    slurm = "SLURM_PROCID in the environment"
    values: dict[str, Any] = {}
    if launch.machine_rank == "auto":
        number = os.environ.get("SLURM_PROCID", "")
        known = (int(number), slurm) if number.isdecimal() else (None, "not known here")
        values["machine_rank"] = known if several else (0, "one machine")
    if launch.main_process_ip == "auto":
        name = next((each for each in ("MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR") if os.environ.get(each)), None)
        known_ip = (os.environ[name], f"{name} in the environment") if name else (None, "not known here")
        values["main_process_ip"] = known_ip if several else ("127.0.0.1", "one machine")
    if launch.main_process_port == "auto":
        number = os.environ.get("MASTER_PORT", "")
        known_port = (int(number), "MASTER_PORT in the environment") if number.isdecimal() else (DEFAULT_PORT, "usual")
        values["main_process_port"] = known_port if several else (0, "a free port")
    return {name: decisions.decide(f"launch.{name}", *decided) for name, decided in values.items()}


def _deepspeed_config(decisions: Decisions, strategy: str) -> dict[str, Any] | None:
    config = decisions.loaded.recipe.launch.deepspeed_config
    path = "launch.deepspeed_config"
    if strategy != "deepspeed" or isinstance(config, dict):
        return config if isinstance(config, dict) else None
    if config is None:
        default = {"zero_optimization": {"stage": DEFAULT_ZERO_STAGE}}
        return decisions.decide(path, default, "ZeRO-2, which divides gradients and optimizer states")
    return decisions.decide(path, _read_deepspeed_file(decisions, config), f"read from {config}")


def _read_deepspeed_file(decisions: Decisions, name: str) -> dict[str, Any]:
    path = "launch.deepspeed_config"
    file = decisions.loaded.local_path(path, name)
    if file is None or not file.is_file():
        folders = " or ".join(map(str, dict.fromkeys(decisions.loaded.search_directories(path))))
        raise UsageError(f"{path}: {name} is not a file in {folders}.", remedy="Correct the path.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {file} cannot be read: {error}.", remedy="It must be a JSON file.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: {file} has no JSON object.", remedy="It must be a configuration of DeepSpeed.")
    return content
