"""Full state: weights and optimizer state as a single process writes them, gathered from the shards of all ranks.

Checkpoints and results therefore have one format, whatever the strategy, and a run continues with another number of
processes or another strategy. All ranks call these functions, in the same order; rank 0 gets what is gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.experimental import implicit_replication

from orpo_cli.training.agreement import Agreement


def gather_weights(
    model: Any,
    agreement: Agreement,
    gather: Callable[[torch.Tensor], torch.Tensor],
    *,
    save_embedding_layers: bool | str = "auto",
) -> dict[str, torch.Tensor] | None:
    """The entries of ``model.state_dict()`` that its ``save_pretrained`` writes, in host memory; None on other ranks.

    ``gather`` gives the full tensor of a weight.
    """
    state: dict[str, Any] = model.state_dict(keep_vars=True)  # tied weights are one object
    names = list(state)
    if hasattr(model, "peft_config"):  # may ask the hub, whose answer could differ between ranks
        names = agreement.gather(_adapter_names(model, names, save_embedding_layers) if agreement.rank == 0 else [])[0]
    gathered: dict[int, Any] = {}
    for name in names:
        if id(state[name]) not in gathered:
            tensor = gather(state[name]).detach()
            gathered[id(state[name])] = tensor.cpu() if agreement.rank == 0 else None
    return {name: gathered[id(state[name])] for name in names} if agreement.rank == 0 else None


def gather_optimizer(optimizer: Any, agreement: Agreement) -> dict[str, Any] | None:
    """``optimizer.state_dict()`` with full tensors in host memory; None on other ranks."""
    state = optimizer.state_dict()
    tensors: dict[Any, dict[str, Any]] = {}
    for index, values in state["state"].items():
        gathered = {name: full_tensor(value) if isinstance(value, DTensor) else value for name, value in values.items()}
        if agreement.rank == 0:
            tensors[index] = {name: each.cpu() if torch.is_tensor(each) else each for name, each in gathered.items()}
    return {**state, "state": tensors} if agreement.rank == 0 else None


def scatter_optimizer(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The full ``state`` of an optimizer, as each rank reads it, with the shards of this rank."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    indices = [index for group in state["param_groups"] for index in group["params"]]
    by_index = dict(zip(indices, parameters, strict=True))
    scattered = {
        index: {name: _shard_like(value, by_index[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": scattered}


@contextmanager
def loading_full_weights() -> Iterator[None]:
    """Context in which full tensors can be copied into sharded weights: each rank takes its part."""
    with implicit_replication():
        yield


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else getattr(tensor, "ds_tensor", tensor)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or a sharded one gathered from all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _adapter_names(model: Any, names: list[str], save_embedding_layers: bool | str) -> list[str]:
    """The names that peft writes, before it shortens them."""
    from peft import get_peft_model_state_dict

    adapter = model.active_adapters[0]
    entries = {name: name for name in names}
    written = get_peft_model_state_dict(
        model, entries, adapter_name=adapter, save_embedding_layers=save_embedding_layers
    )
    return [name for name in names if name in set(written.values())]


def _shard_like(value: Any, parameter: torch.Tensor) -> Any:
    if not isinstance(parameter, DTensor) or not torch.is_tensor(value) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
