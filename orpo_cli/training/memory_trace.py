"""Memory trace of a micro-batch: peak bytes of forward and backward, measured without weights, data or a device.

The model's code and the engine's code run on tensors without data (torch's FakeTensorMode), with one or two layers of each
kind, and an ``AllocationCounter`` counts storages while they are live. So the figures follow the architecture, the adapter,
the dtypes and the engine's code; ``orpo_cli.estimate.memory`` does the rest of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.training.allocation_counter import AllocationCounter, Phases
from orpo_cli.training.engine import lm_head, orpo_loss
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.packed_attention import attention_configs, use_packed_attention
from orpo_cli.training.engine.packed_step import forward_packed, patched_forwards
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, pack
from orpo_cli.training.traced_model import build_traced_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class MemoryTracer:
    """Function from a micro-batch's pair sizes to its peak bytes, for a model configuration and a ``Computation``.

    The model is built once, without memory. Raises what transformers raises for a configuration that it cannot build, and
    what torch raises for a model whose code reads its data.
    """

    def __init__(self, config: PreTrainedConfig, computation: Computation) -> None:
        self.computation = computation
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):  # faster than FakeTensorMode; only the layers that run are converted
            self.model = build_traced_model(config, computation)
        self.layer_list = _layer_list(self.model)
        self.layers: list[torch.nn.Module] = list(self.layer_list)
        with _use_layers(self.layer_list, []):
            self._make_fake(self.model)

    def __call__(self, pairs: Sequence[PairSize]) -> Activations:
        """Peak of forward and backward of these pairs in one micro-batch, weights and gradients left out."""
        kinds = self._layer_kinds()
        # Two layers of each kind: the first layer of the model may get its input in another dtype than the others.
        base = [layer for layers in kinds for layer in layers[:2]]
        base_phases = self._run(base, pairs)
        phases = list(base_phases)
        for layers in kinds:
            if len(layers) <= 2:
                continue
            # A layer that runs twice would not do: its two gradients wait for each other.
            longer = [each for layer in base for each in (layers[1:3] if layer is layers[1] else [layer])]
            for index, (with_one_more, without) in enumerate(zip(self._run(longer, pairs), base_phases, strict=True)):
                phases[index] = phases[index].plus(with_one_more.plus(without, -1), len(layers) - 2)
        *peaks, kept, after_head = phases
        peak = max(peaks, key=lambda phase: phase.total)
        return replace(peak, forward=peaks[0].total, kept=kept.total, after_head=after_head.total)

    def _layer_kinds(self) -> list[list[torch.nn.Module]]:
        """Layers grouped by class, checkpointing, and names, shapes and training of their parameters, in the model's order."""
        kinds: dict[str, list[torch.nn.Module]] = {}
        for layer in self.layers:
            parameters = [(name, tuple(each.shape), each.requires_grad) for name, each in layer.named_parameters()]
            checkpointed = getattr(layer, "gradient_checkpointing", False)
            kinds.setdefault(f"{type(layer).__name__} {checkpointed} {parameters}", []).append(layer)
        return list(kinds.values())

    def _run(self, layers: Sequence[torch.nn.Module], pairs: Sequence[PairSize]) -> Phases:
        """Forward and backward with these layers only."""
        packed = pack([_pair(number, size) for number, size in enumerate(pairs)], self.computation.loss_on_prompt)
        for layer in layers:
            self._make_fake(layer)
        with self.mode, _use_layers(self.layer_list, layers), _few_tiles():
            if self.computation.fast_path:
                return self._run_packed(packed.map_tensors(self.mode.from_tensor))
            return self._run_padded(pairs)

    def _make_fake(self, module: torch.nn.Module) -> None:
        """Convert meta tensors of ``module`` to fake tensors on the CPU; tied tensors stay tied."""
        converted: dict[int, Any] = {}

        def convert(tensor: torch.Tensor) -> Any:
            if id(tensor) not in converted:
                content = tensor.detach()
                fake = self.mode.fake_tensor_converter.from_meta_and_device(self.mode, content, torch.device("cpu"))
                converted[id(tensor)] = _as_parameter(fake, tensor)
            return converted[id(tensor)]

        with self.mode:
            for each in module.modules():
                tensors: dict[str, Any]
                for tensors in (each._parameters, each._buffers):
                    tensors.update({name: convert(value) for name, value in tensors.items() if _is_meta(value)})

    def _run_packed(self, batch: MicroBatch) -> Phases:
        """The engine's step: see ``Engine.loss_share``, without the fused LoRA layers, which ``traced_model`` has."""
        counter, head = AllocationCounter(self.model, self.computation.accumulates), self.model.get_output_embeddings()
        packed_attention = use_packed_attention(attention_configs(self.model), batch)
        fused = patched_forwards(fused_norms_and_gates(self.model, verify=False))
        transform = lm_head.logit_transform(self.model)
        with counter, counter.observe_phases(self.model), packed_attention, fused:
            with self._autocast():
                output = forward_packed(self.model, head, transform, batch)
            totals = orpo_loss.StepTotals(batch.num_tokens, batch.num_pairs)
            loss, _ = orpo_loss.loss_share(output.log_probs, batch, totals, 0.1)
            return counter.run_backward(loss)

    def _run_padded(self, pairs: Sequence[PairSize]) -> Phases:
        """trl's step: chosen and rejected as rows of one batch, padded to the longest, with the logits of every token."""
        length = max(pair.prompt + max(pair.chosen, pair.rejected) for pair in pairs)
        ids = torch.zeros((2 * len(pairs), length), dtype=torch.int64)
        counter = AllocationCounter(self.model, self.computation.accumulates)
        with counter, counter.observe_phases(self.model):
            with self._autocast():
                logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            if self.computation.autocast is not None:
                logits = logits.float()  # accelerate's convert_to_fp32
            return counter.run_backward(_trl_loss(logits, ids))

    def _autocast(self) -> Any:
        name = self.computation.autocast
        return nullcontext() if name is None else torch.autocast("cpu", getattr(torch, name))


def _is_meta(tensor: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    return tensor is not None and type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.is_meta


def _as_parameter(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor`` as a parameter where ``like`` is one, with a gradient if trained, as after the first micro-batch."""
    if not isinstance(like, torch.nn.Parameter):
        return tensor
    parameter = torch.nn.Parameter(tensor, like.requires_grad)
    if like.requires_grad:
        parameter.grad = torch.empty_like(parameter)
    return parameter


def _layer_list(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The ModuleList of decoder layers: of those with num_hidden_layers entries, the one with the most parameters."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    return max(lists, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))


@contextmanager
def _use_layers(layer_list: torch.nn.ModuleList, layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Context in which the model has only these layers."""
    before = layer_list._modules
    layer_list._modules = {str(number): layer for number, layer in enumerate(layers)}
    try:
        yield
    finally:
        layer_list._modules = before


@contextmanager
def _few_tiles() -> Iterator[None]:
    """Context in which the head computes its first two tiles and its last: the peak of the others is that of the second."""
    split_range = lm_head.split_range

    def few(length: int, size: int) -> list[slice]:
        tiles = split_range(length, size)
        return tiles if len(tiles) < 4 else [*tiles[:2], tiles[-1]]

    lm_head.split_range = few
    try:
        yield
    finally:
        lm_head.split_range = split_range


def _pair(number: int, size: PairSize) -> TokenPair:
    """A pair of these lengths that shares no token with another ``number``; its completions differ from the first token on."""
    prompt, chosen, rejected = (torch.full((count,), 3 * number + value) for value, count in enumerate(size))
    return TokenPair("", prompt, chosen, rejected)


def _trl_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The operations of trl 1.16's ORPOTrainer.concatenated_forward on the logits, (2 × pairs, tokens, vocab_size)."""
    pairs = len(logits) // 2
    shifted = logits[:pairs, :-1].contiguous()
    nll = cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[:pairs, 1:].flatten())
    inputs, targets = logits[:, :-1], ids[:, 1:, None]
    if logits.dtype is torch.float32:
        log_norms = torch.stack([torch.logsumexp(row, dim=-1) for row in inputs])
        log_probs = torch.gather(inputs, -1, targets).squeeze(-1) - log_norms
    else:
        rows = [torch.log_softmax(row, dim=-1) for row in inputs]
        gathered = [row.gather(-1, each) for row, each in zip(rows, targets, strict=True)]
        log_probs = torch.stack(gathered).squeeze(-1)
    return nll + log_probs.mean()
