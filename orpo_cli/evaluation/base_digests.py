"""Digests of a base model: what it is, without its adapter, so that what it computed can be kept while it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from orpo_cli.model.base_model import base_of

NOT_DECIDING = {  # of a model's configuration
    "_name_or_path", "transformers_version", "use_cache", "dtype", "bos_token_id", "eos_token_id", "pad_token_id",
}  # fmt: skip


def base_digests(model: Any) -> tuple[Any, str, str] | None:
    """The base that ``model`` is, or contains without its adapter, and the digests of its weights and of its configuration.

    None where they do not say what it computes: sharded, offloaded or 8-bit weights, custom code.
    """
    base = base_of(model)
    weights = _weights_digest(base)
    if weights is None or not type(base).__module__.startswith("transformers."):
        return None
    return base, weights, _config_digest(base)


def _config_digest(base: Any) -> str:
    config = {name: value for name, value in base.config.to_dict().items() if name not in NOT_DECIDING}
    values = [type(base).__name__, config, base.config._attn_implementation]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _weights_digest(base: torch.nn.Module) -> str | None:
    """xxh3 of all weights and buffers but those of adapters, which have the same names without adapters; None if unknown."""
    import xxhash

    digest = xxhash.xxh3_128()
    for name, tensor in sorted(_base_tensors(base), key=lambda item: item[0]):
        if type(tensor).__name__ == "DTensor" or tensor.device.type == "meta" or tensor.dtype is torch.int8:
            return None
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base_tensors(base: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    of_adapters: set[int] = set()
    for module in base.modules():
        if isinstance(module, BaseTunerLayer):
            parts = [getattr(module, name, None) for name in module.adapter_layer_names]
            of_adapters |= {
                id(each) for part in parts if isinstance(part, torch.nn.Module) for each in part.parameters()
            }
            of_adapters |= {id(each) for part in parts if isinstance(part, torch.nn.Module) for each in part.buffers()}
    for name, tensor in (*base.named_parameters(), *base.named_buffers()):
        if id(tensor) in of_adapters:
            continue
        name = name.replace(".base_layer.", ".")
        yield name, tensor
        state = getattr(tensor, "quant_state", None)  # of a 4-bit weight
        if state is not None:
            yield from ((f"{name}.{part}", value) for part, value in state.as_dict(packed=True).items())
