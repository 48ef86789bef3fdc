"""FSDP2: shards of a model's weights on all ranks, gathered layer by layer.

The groups are those of accelerate's FSDP plugin, and the settings have its names. transformers and accelerate shard on GPUs
only; ``fully_shard`` itself also works on CPUs, so that tests on two processes run the code that GPUs run.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from orpo_cli.errors import UsageError
from orpo_cli.model.base_model import base_of

if TYPE_CHECKING:
    from orpo_cli.recipe.schema import FsdpConfig


def make_mesh(device: torch.device) -> DeviceMesh:
    """Mesh of all ranks."""
    start_process_group(device)
    return init_device_mesh(device.type, (dist.get_world_size(),))


def start_process_group(device: torch.device) -> None:
    """Start the group of one process that has none: sharding needs one."""
    if not dist.is_initialized():
        backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        atexit.register(_end_process_group)


def shard_model(model: Any, mesh: DeviceMesh, config: FsdpConfig, compute_dtype: torch.dtype | None) -> None:
    """Shard ``model``, with or without an adapter: its layers, embeddings, and the final norm together with the head.

    Layers are gathered in ``compute_dtype`` (None: in their own). Embeddings keep their dtype, because the hidden states of
    all layers have it: with that of the computation, they would be rounded where one process does not round them.
    Raises UsageError where the classes of the layers are unknown.
    """
    base = base_of(model)
    layers = decoder_layers(base, config.transformer_layer_cls_to_wrap)
    _keep_quantization_states(model)
    offload = config.offload_params and mesh.device_type != "cpu"
    options: dict[str, Any] = {
        "mesh": mesh,
        "shard_placement_fn": lambda weight: sharded_dimension(weight, mesh.size()),
    }
    if offload:
        options["offload_policy"] = CPUOffloadPolicy()
    computed: dict[str, Any] = {}
    if compute_dtype is not None:
        policy = MixedPrecisionPolicy(compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        computed = {"mp_policy": policy}
    for layer in layers:
        fully_shard(layer, reshard_after_forward=config.reshard_after_forward, **computed, **options)
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    tail = [each for each in (_final_norm(base), head) if each is not None]
    if embedding.weight is getattr(head, "weight", None):
        # Its weight may be in one group only. The first module of a group gathers it.
        fully_shard([embedding, *tail], reshard_after_forward=False, **options)
    else:
        fully_shard(embedding, reshard_after_forward=config.reshard_after_forward, **options)
        # The backward pass begins with the tail, which is therefore kept.
        fully_shard(tail, reshard_after_forward=False, **computed, **options)
    fully_shard(model, **options)


def sharded_dimension(weight: torch.Tensor, ranks: int) -> Shard | None:
    """A later dimension for a tensor with fewer rows than ranks, such as one with a row for each expert.

    Its rows would be padded to one for each rank: most ranks would hold nothing, and the gathered tensor would be larger.
    """
    if weight.dim() < 2 or weight.shape[0] >= ranks:
        return None
    return next((Shard(dim) for dim in range(1, weight.dim()) if weight.shape[dim] % ranks == 0), None)


def reshard(model: torch.nn.Module) -> None:
    """Free gathered weights. A forward pass without a backward pass leaves those of the tail and the root."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def deferred_reduction(model: FSDPModule) -> Iterator[None]:
    """Context of a backward pass whose gradients are not sharded on each rank, and are averaged by a later one."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def decoder_layers(base: Any, names: list[str] | None = None) -> list[torch.nn.Module]:
    """The layers of a model that are gathered one by one, of the classes ``names`` or those that transformers knows.

    Raises UsageError where there are none.
    """
    classes = set(names or base._no_split_modules or ())
    layers = [each for each in base.modules() if type(each).__name__ in classes]
    if not layers:
        known = ", ".join(sorted(classes)) or "none are known for this architecture"
        raise UsageError(
            f"launch.fsdp_config.transformer_layer_cls_to_wrap: {type(base).__name__} has no layers of these classes: {known}.",
            remedy="Write the class names of its decoder layers.",
        )
    return layers


def _final_norm(base: Any) -> torch.nn.Module | None:
    """The last norm beside the layers; None where it is elsewhere, and becomes part of the root's group."""
    inner = getattr(base, base.base_model_prefix, base)
    norms = [each for each in inner.children() if "Norm" in type(each).__name__]
    return norms[-1] if norms else None


def _keep_quantization_states(model: torch.nn.Module) -> None:
    """Let the modules have the states of their 4-bit weights: a shard has none, and bitsandbytes then asks its module."""
    for module in model.modules():
        state = getattr(module._parameters.get("weight"), "quant_state", None)
        if state is not None:
            module.quant_state = state


def _end_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
