"""Launcher in a shell command: the flags of `accelerate launch`, torchrun and deepspeed before the script, and variables before it.

They become a configuration of accelerate, which has a key for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.command_line import parse_flags
from orpo_cli.recipe.source.yaml_reader import parse_value

LAUNCHERS = ("accelerate", "torchrun", "deepspeed", "torch.distributed.run")
# Variables that ms-swift, LLaMA-Factory and torch's launcher read.
VARIABLES = {
    "NPROC_PER_NODE": "nproc_per_node",
    "NNODES": "nnodes",
    "NODE_RANK": "machine_rank",
    "MASTER_ADDR": "main_process_ip",
    "MASTER_PORT": "main_process_port",
    "CUDA_VISIBLE_DEVICES": "gpu_ids",
    "OMP_NUM_THREADS": "num_cpu_threads_per_process",
}
FLAGS = {
    "node_rank": "machine_rank",
    "master_addr": "main_process_ip",
    "master_port": "main_process_port",
    "num_gpus": "nproc_per_node",
    "num_nodes": "nnodes",
}
SWITCHES = {"multi_gpu": "MULTI_GPU", "use_fsdp": "FSDP", "use_deepspeed": "DEEPSPEED", "cpu": None}
_ASSIGNMENT = re.compile(r"([A-Z_][A-Z0-9_]*)=(.*)")


def split_launcher(arguments: list[str]) -> tuple[dict[str, Any], list[str], str]:
    """Settings of the launcher by accelerate's names, the arguments of the script, and the name of the launcher."""
    config: dict[str, Any] = {}
    index = 0
    while index < len(arguments) and (found := _ASSIGNMENT.fullmatch(arguments[index])):
        if found[1] in VARIABLES:
            config[VARIABLES[found[1]]] = _number(found[2])
        index += 1
    start = next((at for at, each in enumerate(arguments) if each.rpartition("/")[2] in LAUNCHERS), None)
    module = next((at for at, each in enumerate(arguments[:-1]) if each in ("-m", "--module")), None)
    script = next(
        (at for at, each in enumerate(arguments) if each.endswith(".py")), None if module is None else module + 1
    )
    if start is None or script is None or script < start:
        return _with_totals(config), arguments, "environment"
    flags = parse_flags([each for each in arguments[start + 1 : script] if each not in ("launch", "-m", "--module")])
    config |= {FLAGS.get(key, key): value for key, value in flags.items()}
    return _with_totals(_nested(config)), arguments[script:], arguments[start].rpartition("/")[2].partition(".")[0]


def _with_totals(config: dict[str, Any]) -> dict[str, Any]:
    """Processes of a machine times machines, as accelerate has them."""
    machines = config.pop("nnodes", None)
    here = config.pop("nproc_per_node", None)
    if machines is not None:
        config["num_machines"] = machines
    if isinstance(here, int):
        config["num_processes"] = here * (machines if isinstance(machines, int) else 1)
    elif here is not None and here not in ("auto", "gpu"):
        config["nproc_per_node"] = here
    return config


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of FSDP and DeepSpeed under the keys that a file has."""
    config: dict[str, Any] = {}
    for key, value in flags.items():
        if key.startswith("fsdp_"):
            config.setdefault("fsdp_config", {})[key] = value
        elif key.startswith(("zero", "offload_", "deepspeed_")):
            config.setdefault("deepspeed_config", {})[key] = value
        elif key.startswith("dynamo_"):
            config.setdefault("dynamo_config", {})[key] = value
        elif SWITCHES.get(key) and value is True:
            config["distributed_type"] = SWITCHES[key]
        elif key != "standalone":  # the launcher on one machine, as here
            config[key] = value
    return config


def _number(text: str) -> Any:
    """A number, or the text: `0,1` is no number."""
    value = parse_value(text)
    return value if isinstance(value, int) and not isinstance(value, bool) else text
