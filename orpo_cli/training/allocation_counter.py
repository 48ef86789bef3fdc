"""Allocation counter: bytes of live tensor storages during forward and backward, through torch's dispatch mode."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orpo_cli.estimate.memory import Activations

if TYPE_CHECKING:
    from transformers import PreTrainedModel

aten = torch.ops.aten
Phases = tuple[Activations, ...]


class AllocationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations have allocated and that are still referenced, the model's own left out.

    Operations that read values, which fake tensors do not have, return what training would see.
    """

    def __init__(self, model: PreTrainedModel, accumulates: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        embedding = model.get_input_embeddings().weight
        self.embedding_gradient = embedding.nbytes if embedding.requires_grad and not accumulates else 0
        self.live = self.peak = self.live_before_head = 0
        self.peak_in_head = 0
        self.peak_in_layers: int | None = None
        self.counted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            for each in (tensor, tensor.grad):
                if each is not None:
                    self.counted[each.untyped_storage()] = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default:  # called very often: answered without dispatch
            return args[0].fake_device
        if function is aten.equal.default:  # comparison of a mask with the plain causal one
            return True
        if function is aten._local_scalar_dense.default:  # reads a value, such as whether a mask is all ones
            return 0
        if function is aten.nonzero.default:  # the upper bound
            return torch.empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self.counted:
            return
        size = storage.nbytes()
        self.counted[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size

    @contextmanager
    def observe_phases(self, model: PreTrainedModel) -> Iterator[None]:
        """Context of forward and backward: record live bytes before the head, and the peak until backward leaves the layers."""

        def before_head(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            self.live_before_head = self.live
            if inputs and inputs[0].requires_grad:
                inputs[0].register_hook(backward_leaves_head)  # type: ignore[no-untyped-call]

        def backward_leaves_head(_: torch.Tensor) -> None:
            self.peak_in_head, self.peak = self.peak, self.live

        def after_embedding(_: Any, __: Any, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.register_hook(backward_leaves_layers)  # type: ignore[no-untyped-call]

        def backward_leaves_layers(_: torch.Tensor) -> None:
            self.peak_in_layers, self.peak = self.peak, self.live

        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        with head.register_forward_pre_hook(before_head), embedding.register_forward_hook(after_embedding):
            yield

    def run_backward(self, loss: torch.Tensor) -> Phases:
        """Run backward from ``loss``; returns the peaks of phases, which grow differently with the number of layers.

        The phases are the forward pass; backward through head and layers; and the rest of backward, where the gradient of
        the embedding is added to the head's (tied weights) and to that of earlier micro-batches. Without earlier ones the
        embedding's gradient remains as the gradient, and is counted there instead. Two parts of these phases follow: what the
        layers keep until backward, and backward through the layers alone. A sharded head has its buffers in other parts.
        """
        forward_peak, kept_by_head = self.peak, self.live - self.live_before_head
        self.peak, self.peak_in_head = self.live, 0
        self.peak_in_layers = None
        loss.backward()  # type: ignore[no-untyped-call]
        if self.peak_in_layers is None:
            after_head, rest = self.peak, 0
        else:
            after_head, rest = self.peak_in_layers, self.peak - self.embedding_gradient
        layers = max(self.peak_in_head, after_head)
        return (
            Activations(self.live_before_head, forward_peak - self.live_before_head),
            Activations(layers - kept_by_head, kept_by_head),
            Activations(0, rest),
            Activations(self.live_before_head, 0),
            Activations(after_head, 0),
        )
