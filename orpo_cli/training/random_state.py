"""Random state of a process: of Python, numpy, the CPU and its own device. Each process of several has its own.

The Trainer would save the state of all GPUs in each process, for which it creates a context on all of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer_pt_utils import safe_globals

from orpo_cli.model.packing_support import attention_dropout
from orpo_cli.training.checkpoint_writer import sync


def save_random_state(folder: Path, device: torch.device, rank: int, num_processes: int) -> None:
    """Write the state of this process to a checkpoint, under the Trainer's name."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    folder.mkdir(parents=True, exist_ok=True)  # rank 0 may not have written the weights yet
    path = folder / _names(num_processes)[rank]
    torch.save(state, path)
    if rank:  # rank 0, which synchronizes all other files, may be on another machine
        sync(path)


def load_random_state(folder: Path, device: torch.device, rank: int, num_processes: int) -> bool:
    """Restore the state of this process; False where another number of processes has written the checkpoint."""
    names = _names(num_processes)
    if {path.name for path in folder.glob("rng_state*.pth")} != set(names):
        return False
    with safe_globals():
        state = torch.load(folder / names[rank], weights_only=True)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], device)
    return True


def seed_process(seed: int, step: int, rank: int) -> None:
    """Give each process other random numbers, the same ones whenever a run continues from ``step``."""
    set_seed(int.from_bytes(blake2b(f"{seed} {step} {rank}".encode(), digest_size=4).digest(), "big"))


def draws_dropout(model: Any) -> bool:
    """Whether a training step draws random numbers."""
    modules = (each for each in model.modules() if isinstance(each, torch.nn.Dropout))
    return any(each.p > 0 for each in modules) or attention_dropout(model, dropout_disabled=True) > 0


def random_state_restorer(device: torch.device) -> Callable[[], None]:
    """Function that restores the current state of the random generators that dropout uses: the CPU's and the device's."""
    cpu_state = torch.get_rng_state()
    if device.type == "cpu":
        return lambda: torch.set_rng_state(cpu_state)
    generator = torch.get_device_module(device)
    device_state = generator.get_rng_state(device)

    def restore() -> None:
        torch.set_rng_state(cpu_state)
        generator.set_rng_state(device_state, device)

    return restore


def _names(num_processes: int) -> list[str]:
    return ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(num_processes)]
