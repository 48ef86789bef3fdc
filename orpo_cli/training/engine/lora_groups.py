"""Groups of fused LoRA layers that are computed as one layer, and copies of their adapters for a micro-batch.

A step of few tokens on a GPU is bound by the CPU, which starts the kernels. Two things take fewer of them:

- The adapters of all layers are cast to the dtype of the computation together, once a micro-batch.
- Query, key and value, and gate and up, read the same input. With 4-bit weights, a group of them is one layer: its weights are
  stored one below the other, are dequantized in one call, and multiplied in one product. The first layer that the model calls
  computes the outputs of all, and each takes its own. The values are those of separate layers, except that the gradient of the
  input is a sum that is rounded at its end, instead of a sum of rounded gradients. Groups of float32 layers on a CPU keep
  their weights: see ``shared_input``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from orpo_cli.estimate.parameter_counts import SAME_INPUT
from orpo_cli.training.engine.fused_lora import ALIGNMENT, AdapterCopy, FusedForward, apply_lora_linear, merged_linear
from orpo_cli.training.engine.shared_input import SharedInputGroup, UntakenOutputs

INT32_MAX = 2**31 - 1  # bitsandbytes counts elements in int32


class Weights4bit:
    """4-bit weights of layers, one below the other. The layers' own weights become parts of it, so it takes no memory."""

    def __init__(self, layers: Sequence[Any]) -> None:
        weights = [layer.weight for layer in layers]
        states = [weight.quant_state for weight in weights]
        self.state = states[0]
        self.shape = (sum(state.shape[0] for state in states), self.state.shape[1])
        self.data = _join([weight.data for weight in weights])
        self.absmax = _join([state.absmax for state in states])
        for weight, state, data, absmax in zip(
            weights, states, _parts(self.data, [weight.data for weight in weights]),
            _parts(self.absmax, [state.absmax for state in states]), strict=True,
        ):  # fmt: skip
            weight.data, state.absmax = data, absmax
        if self.state.nested:
            self.scales = torch.cat([state.state2.absmax for state in states])
            self.offsets = torch.cat([state.offset.expand(len(state.state2.absmax)) for state in states])[
                :, None
            ].clone()

    def __call__(self, dtype: torch.dtype) -> torch.Tensor:
        """The weights (sum of out_features, in_features), as bitsandbytes dequantizes each."""
        state, absmax = self.state, self.absmax
        if state.nested:
            nested = state.state2
            absmax = torch.ops.bitsandbytes.dequantize_blockwise.default(
                absmax, self.scales, nested.code, nested.blocksize, nested.dtype
            )
            absmax.view(-1, nested.blocksize).add_(self.offsets)
        weight: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
            self.data, absmax, state.blocksize, state.quant_type, self.shape, state.dtype
        )
        return weight.to(dtype)

    @staticmethod
    def can_join(layers: Sequence[Any]) -> bool:
        """Whether the blocks of quantization of ``layers`` stay blocks in the joined weights."""
        states: list[Any] = [getattr(layer.weight, "quant_state", None) for layer in layers]
        if not all(_is_regular(layer.weight, state) for layer, state in zip(layers, states, strict=True)):
            return False
        same = {
            (state.quant_type, state.blocksize, state.dtype, state.shape[1], state.nested, layer.weight.device)
            for layer, state in zip(layers, states, strict=True)
        }
        return len(same) == 1 and sum(state.shape.numel() for state in states) <= INT32_MAX and _nested_alike(states)


def _is_regular(weight: Any, state: Any) -> bool:
    elements = None if state is None else state.shape.numel()
    packed = weight.dtype == torch.uint8 and weight.dim() == 2 and weight.shape[1] == 1
    return elements is not None and packed and 2 * weight.numel() == elements and elements % state.blocksize == 0


def _nested_alike(states: Sequence[Any]) -> bool:
    if not states[0].nested:
        return all(state.absmax.dtype == torch.float32 for state in states)
    first = states[0].state2
    return first.dtype == torch.float32 and all(
        not state.state2.nested
        and state.state2.blocksize == first.blocksize
        and state.state2.dtype == first.dtype
        and state.absmax.numel() % first.blocksize == 0
        and torch.equal(state.state2.code, first.code)
        for state in states
    )


def _join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def _parts(joined: torch.Tensor, like: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return torch.split(joined, [len(each) for each in like])


class LoraGroup:
    """Fused LoRA layers with the same input, or one layer; their adapters are in one ``AdapterCopy``."""

    def __init__(self, forwards: Sequence[FusedForward]) -> None:
        self.forwards = forwards
        self.copy: AdapterCopy | None = None  # kept between micro-batches, since each needs it
        self.copied: list[torch.Tensor] = []  # its parts that belong to ``matrices``
        self.sizes = [each.adapter[1].shape[0] for each in forwards]
        self.scaling = forwards[0].scaling
        bases = [each.layer.base_layer for each in forwards]
        self.weights = Weights4bit(bases) if len(forwards) > 1 else None
        biases = [base.bias for base in bases]
        self.bias = torch.cat(biases) if len(forwards) > 1 and biases[0] is not None else None
        self.untaken = UntakenOutputs()

    @staticmethod
    def can_join(forwards: Sequence[FusedForward]) -> bool:
        """Whether ``forwards`` can be computed as one layer."""
        bases = [each.layer.base_layer for each in forwards]
        biases = [base.bias for base in bases]
        no_bias = all(bias is None for bias in biases)
        frozen = all(bias is not None and not bias.requires_grad for bias in biases)
        same = {(each.scaling, each.adapter[0].dtype, each.adapter[1].dtype) for each in forwards}
        in_4_bits = all(each.dequantize is not None for each in forwards)
        return in_4_bits and len(same) == 1 and (no_bias or frozen) and Weights4bit.can_join(bases)

    @property
    def matrices(self) -> list[torch.Tensor]:
        """A and B of each layer."""
        return [matrix for each in self.forwards for matrix in each.adapter]

    def allocate(self, dtype: torch.dtype) -> None:
        """Memory of the copy in ``dtype``."""
        matrices = self.matrices
        if len(self.forwards) == 1:
            a, b = (torch.empty_like(each, dtype=dtype) for each in matrices)
            self.copy, self.copied = AdapterCopy(a, b), [a, b]
            return
        ranks = [len(each) for each in matrices[::2]]
        padded = -(-sum(ranks) // ALIGNMENT) * ALIGNMENT
        a = matrices[0].new_zeros((padded, matrices[0].shape[1]), dtype=dtype)
        b = a.new_zeros((sum(self.sizes), padded))
        places = tuple(zip(_ranges(self.sizes), _ranges(ranks), strict=True))
        self.copy = AdapterCopy(a, b, places)
        self.copied = [part for rows, columns in places for part in (a[columns], b[rows, columns])]

    def compute(self, forward: FusedForward, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The output of ``forward``, one of the group's; outputs of the others are kept until they are taken."""
        if self.weights is None:
            base = forward.layer.base_layer
            weight = base.weight if forward.dequantize is None else None
            return apply_lora_linear(
                x, dtype, weight, forward.dequantize, base.bias, self.scaling, self.copy, *forward.adapter
            )
        if (output := self.untaken.take(forward, x)) is not None:
            return output
        output = apply_lora_linear(x, dtype, None, self.weights, self.bias, self.scaling, self.copy, *self.matrices)
        return self.untaken.share(
            forward, x, dict(zip(self.forwards, torch.split(output, self.sizes, -1), strict=True))
        )

    def release(self) -> bool:
        """Drop outputs that no layer has taken; returns whether there were any."""
        return self.untaken.release()


def _ranges(sizes: Sequence[int]) -> list[slice]:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class LoraGroups:
    """The groups of a model, and the copies of their adapters."""

    def __init__(self, model: torch.nn.Module, forwards: Iterable[tuple[torch.nn.Module, Any]]) -> None:
        fused = {module: each for module, each in forwards if isinstance(each, FusedForward)}
        self.groups: dict[FusedForward, LoraGroup | SharedInputGroup] = {}
        for members in _same_input(model, fused):
            kind = next((each for each in (LoraGroup, SharedInputGroup) if each.can_join(members)), None)
            if kind is not None:
                self.groups.update(dict.fromkeys(members, kind(members)))
        for each in fused.values():
            if each not in self.groups:
                self.groups[each] = LoraGroup([each])
        self.dtype: torch.dtype | None = None  # of the copies, once they are made for the micro-batch
        self.usable, self.merge = True, False

    @contextmanager
    def shared(self, *, merge: bool = False) -> Iterator[None]:
        """Context of forward and backward of a micro-batch, in which no adapter changes.

        ``merge``: only a forward pass, for which ``merged_linear`` computes what it can.
        """
        self.dtype, self.usable, self.merge = None, True, merge
        for forward in self.groups:
            forward.shared = self
        finished = False
        try:
            yield
            finished = True
        finally:
            for forward in self.groups:
                forward.shared = None
            for group in self.release():
                if finished:  # the model does not call them with the same input
                    self.groups.update({each: LoraGroup([each]) for each in group.forwards})

    def release(self) -> list[LoraGroup | SharedInputGroup]:
        """Drop outputs that no layer has taken in this thread; returns the groups that had any."""
        return [group for group in dict.fromkeys(self.groups.values()) if group.release()]

    def compute(self, forward: FusedForward, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """The output of a layer in ``dtype``; None where the layer has to compute it alone."""
        if self.merge and (output := merged_linear(forward, x, dtype)) is not None:
            return output
        group = self.groups[forward]
        if isinstance(group, SharedInputGroup):
            return group.compute(forward, x, dtype)
        if self.dtype is None and self.usable:
            self.usable = self._copy_adapters(dtype)
        return group.compute(forward, x, dtype) if self.usable and self.dtype == dtype else None

    @torch.no_grad()
    def _copy_adapters(self, dtype: torch.dtype) -> bool:
        groups = [each for each in dict.fromkeys(self.groups.values()) if isinstance(each, LoraGroup)]
        matrices = [matrix for group in groups for matrix in group.matrices]
        # Without a cast there is nothing to share; FSDP and ZeRO-3 gather the matrices of a layer when it runs.
        if any(
            each.dtype == dtype or type(each) is not torch.nn.Parameter or hasattr(each, "ds_id") for each in matrices
        ):
            return False
        for group in groups:
            if group.copy is None or group.copy.a.dtype != dtype:
                group.allocate(dtype)
        pairs = list(zip((copy for group in groups for copy in group.copied), matrices, strict=True))
        for contiguous in (True, False):  # torch copies a list in few kernels only if all are contiguous
            chosen = [pair for pair in pairs if pair[0].is_contiguous() == contiguous]
            if chosen:
                torch._foreach_copy_([copy for copy, _ in chosen], [matrix for _, matrix in chosen])
        self.dtype = dtype
        return True


def _same_input(model: torch.nn.Module, fused: Mapping[torch.nn.Module, FusedForward]) -> Iterator[list[FusedForward]]:
    for module in model.modules():
        children = dict(module.named_children())
        for names in SAME_INPUT:
            members = [fused[children[name]] for name in names if children.get(name) in fused]
            if len(members) == len(names):
                yield members
