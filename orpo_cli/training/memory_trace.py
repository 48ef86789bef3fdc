"""What a forward and a backward pass hold in memory, found out without weights, data or a device.

The model's own code and the engine's own code run on tensors that have a size and no content (torch's FakeTensorMode), one
layer of each kind, and every storage is counted while it lives. So the figures follow the architecture, the adapter, the
number types and the engine, whatever becomes of them; ``orpo_cli.estimate.memory`` does the rest of the arithmetic.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.estimate.parameter_counts import adapted_modules
from orpo_cli.training.engine import lm_head as heads
from orpo_cli.training.engine import orpo_loss
from orpo_cli.training.engine.fused_lora import lora_linear
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.lm_head import logit_transform, patched_lm_head
from orpo_cli.training.engine.packed_attention import attention_configs, use_packed_attention
from orpo_cli.training.engine.packed_step import patched_forwards
from orpo_cli.training.engine.packing import MicroBatch, TokenPair, pack
from orpo_cli.training.engine.recompute import recompute_in_backward

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

aten = torch.ops.aten
Phases = tuple[Activations, ...]


class MemoryTracer:
    """Answers how many bytes a micro-batch takes in a model with this configuration, computed as ``computation`` says.

    The model is made once, without memory. Raises what transformers raises for a configuration that it cannot build, and
    what torch raises for a model whose code looks at its data.
    """

    def __init__(self, config: PreTrainedConfig, computation: Computation) -> None:
        self.computation = computation
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):  # in less time than by the mode; what runs is moved into it
            self.model = _model(config, computation)
        self.layers = _layers(self.model)
        self.every: list[torch.nn.Module] = list(self.layers)
        with _only(self.layers, []):
            self._move(self.model)

    def __call__(self, pairs: Sequence[PairSize]) -> Activations:
        """What forward and backward of these pairs, in one micro-batch, hold at their peak besides weights and gradients."""
        kinds = self._kinds()
        base = [layer for layers in kinds for layer in layers[:2]]  # what enters the first of all may have another type
        once = self._run(base, pairs)
        whole = list(once)
        for layers in kinds:
            if len(layers) <= 2:
                continue
            more = [each for layer in base for each in ([layer, layer] if layer is layers[1] else [layer])]
            for at, (more_kept, kept) in enumerate(zip(self._run(more, pairs), once, strict=True)):
                whole[at] = whole[at].plus(more_kept.plus(kept, -1), len(layers) - 2)
        return max(whole, key=lambda phase: phase.total)

    def _kinds(self) -> list[list[torch.nn.Module]]:
        """The layers, those alike together: the same parameters, trained or not, of the same shapes; in the model's order."""
        kinds: dict[str, list[torch.nn.Module]] = {}
        for layer in self.every:
            look = [(name, tuple(each.shape), each.requires_grad) for name, each in layer.named_parameters()]
            kinds.setdefault(f"{type(layer).__name__} {look}", []).append(layer)
        return list(kinds.values())

    def _run(self, layers: Sequence[torch.nn.Module], pairs: Sequence[PairSize]) -> Phases:
        """Forward and backward with these layers only."""
        packed = pack([_pair(size) for size in pairs], self.computation.loss_on_prompt)
        for layer in layers:
            self._move(layer)
        with self.mode, _only(self.layers, layers), _few_tiles():
            if self.computation.fast_path:
                return self._packed(_sized(packed, self.mode))
            return self._padded(pairs)

    def _move(self, module: torch.nn.Module) -> None:
        """Give the tensors of ``module`` that are on the meta device a place on the CPU, without memory; tied ones stay tied."""
        moved: dict[int, Any] = {}

        def placed(tensor: torch.Tensor) -> Any:
            if id(tensor) not in moved:
                content = tensor.detach()
                fake = self.mode.fake_tensor_converter.from_meta_and_device(self.mode, content, torch.device("cpu"))
                moved[id(tensor)] = _as_trained(fake, tensor)
            return moved[id(tensor)]

        with self.mode:
            for each in module.modules():
                tensors: dict[str, Any]
                for tensors in (each._parameters, each._buffers):
                    tensors.update({name: placed(value) for name, value in tensors.items() if _is_meta(value)})

    def _packed(self, batch: MicroBatch) -> Phases:
        counter, head = _Counter(self.model, self.computation.accumulates), self.model.get_output_embeddings()
        packed, cheap = (
            use_packed_attention(attention_configs(self.model), batch),
            patched_forwards(fused_norms_and_gates(self.model, verify=False)),
        )
        with counter, counter.noting(self.model), packed, cheap:
            with (
                patched_lm_head(head, logit_transform(self.model), batch) as scores,
                recompute_in_backward(),
                self._autocast(),
            ):
                self.model(
                    input_ids=batch.input_ids,
                    attention_mask=torch.ones_like(batch.input_ids),
                    position_ids=batch.position_ids,
                    use_cache=False,
                )
            share, _ = orpo_loss.loss_share(
                scores.log_probs, batch, orpo_loss.StepTotals(batch.input_ids.shape[1], batch.num_pairs), 0.1
            )
            return counter.through_backward(share)

    def _padded(self, pairs: Sequence[PairSize]) -> Phases:
        """trl's way: chosen and rejected one under the other, all as long as the longest, and the logits of every token."""
        length = max(pair.prompt + max(pair.chosen, pair.rejected) for pair in pairs)
        ids = torch.zeros((2 * len(pairs), length), dtype=torch.int64)
        counter = _Counter(self.model, self.computation.accumulates)
        with counter, counter.noting(self.model):
            with self._autocast():
                logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            if self.computation.autocast is not None:
                logits = logits.float()  # accelerate's convert_to_fp32
            return counter.through_backward(_trls_loss(logits, ids))

    def _autocast(self) -> Any:
        if self.computation.autocast is None:
            return nullcontext()
        return torch.autocast("cpu", getattr(torch, self.computation.autocast))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations made and that still live; the model's own are not counted."""

    def __init__(self, model: PreTrainedModel, accumulates: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        embedding = model.get_input_embeddings().weight
        self.becomes_gradient = embedding.nbytes if embedding.requires_grad and not accumulates else 0
        self.now = self.peak = self.before_head = 0
        self.in_layers: int | None = None
        self.seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            for each in (tensor, tensor.grad):
                if each is not None:
                    self.seen[each.untyped_storage()] = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.prim.device.default:  # asked for all the time
            return args[0].fake_device
        if function is aten.equal.default:  # a mask that is compared with the plain causal one
            return True
        if (
            function is aten._local_scalar_dense.default
        ):  # content that is asked for, such as whether a mask is all ones
            return 0
        if function is aten.nonzero.default:  # as many as there can be
            return torch.empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage in self.seen:
            return
        size = storage.nbytes()
        self.seen[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

    @contextmanager
    def noting(self, model: PreTrainedModel) -> Iterator[None]:
        """Note what lives when the forward pass comes to the head, and the peak until the backward pass leaves the layers."""

        def at_head(*_: Any) -> None:
            self.before_head = self.now

        def at_embedding(_: Any, __: Any, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.register_hook(out_of_the_layers)  # type: ignore[no-untyped-call]

        def out_of_the_layers(_: torch.Tensor) -> None:
            self.in_layers, self.peak = self.peak, self.now

        handles = (
            model.get_output_embeddings().register_forward_pre_hook(at_head),
            model.get_input_embeddings().register_forward_hook(at_embedding),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def through_backward(self, value: torch.Tensor) -> Phases:
        """Run backward from ``value``; gives the peaks of the forward pass, of the backward pass through head and layers,
        and of the rest of it, where the gradient of the embedding is added to the head's, and to that of micro-batches before;
        without those it stays as the gradient, and is counted there.

        They come at different depths, so each grows with the layers in its own way.
        """
        forward, kept = self.peak, self.now - self.before_head
        self.peak = self.now
        self.in_layers = None
        value.backward()  # type: ignore[no-untyped-call]
        layers, rest = (self.peak, 0) if self.in_layers is None else (self.in_layers, self.peak - self.becomes_gradient)
        return (
            Activations(self.before_head, forward - self.before_head),
            Activations(layers - kept, kept),
            Activations(0, rest),
        )


def _model(config: PreTrainedConfig, computation: Computation) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="eager", dtype=getattr(torch, computation.dtype)
    )
    for each in attention_configs(model):  # which models without sdpa refuse above; the fast path brings its own
        each._attn_implementation = computation.attention
    model.train()
    model.requires_grad_(computation.lora is None)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and computation.disable_dropout:
            module.p = 0.0
    if computation.upcast_norms:
        for name, module in model.named_modules():
            if "norm" in name:
                module.float()
    if computation.lora is not None:
        _adapt(model, computation)
    if computation.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        if computation.lora is not None:
            model.enable_input_require_grads()
    return model


def _is_meta(tensor: torch.Tensor | None) -> TypeGuard[torch.Tensor]:
    return tensor is not None and type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.is_meta


def _as_trained(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``tensor`` as a parameter where ``like`` is one, with a gradient where it has one in every micro-batch but the first."""
    if not isinstance(like, torch.nn.Parameter):
        return tensor
    parameter = torch.nn.Parameter(tensor, like.requires_grad)
    if like.requires_grad:
        parameter.grad = torch.empty_like(parameter)
    return parameter


def _adapt(model: PreTrainedModel, computation: Computation) -> None:
    lora = computation.lora
    assert lora is not None
    for name, rank in adapted_modules([name for name, _ in _linear(model)], lora).items():
        parent, _, own = name.rpartition(".")
        base = model.get_submodule(name)
        fused = computation.fast_path and computation.fused_lora
        adapted = _Adapted(base, rank, lora.lora_dropout, lora.use_dora, fused, computation.upcast_norms)
        setattr(model.get_submodule(parent), own, adapted)
    for name in lora.modules_to_save or ():
        for own, module in model.named_modules():
            if own.rpartition(".")[2] == name:
                module.requires_grad_(True)


def _linear(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head:
            yield name, module


class _Adapted(torch.nn.Module):
    """A frozen linear map with an adapter, as peft computes it, or the engine where it can; the adapter is float32."""

    def __init__(self, base: Any, rank: int, dropout: float, dora: bool, fused: bool, casts_output: bool) -> None:
        super().__init__()
        self.fused = fused and isinstance(base, torch.nn.Linear) and dropout == 0 and not dora
        self.casts_output = casts_output
        shape = base.weight.shape if isinstance(base, torch.nn.Linear) else base.weight.shape[::-1]
        self.base = base
        self.dropout = torch.nn.Dropout(dropout) if dropout > 0 else torch.nn.Identity()
        self.down = torch.nn.Linear(shape[1], rank, bias=False, dtype=torch.float32)
        self.up = torch.nn.Linear(rank, shape[0], bias=False, dtype=torch.float32)
        self.magnitude = torch.nn.Parameter(torch.ones(shape[0])) if dora else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result = self.compute(hidden)
        return result.to(hidden.dtype) if self.casts_output else result

    def compute(self, hidden: torch.Tensor) -> torch.Tensor:
        """As ``fused_lora.forward_in_compute_dtype`` calls it."""
        weight, base = self.base.weight, self.base
        if self.fused and (weight.dtype == self.down.weight.dtype or torch.is_autocast_enabled("cpu")):
            adapter = self.down.weight, self.up.weight  # the engine leaves mixed types without autocast to peft
            return lora_linear(hidden, weight.dtype, weight, None, base.bias, *adapter, 2.0)
        result = base(hidden)
        if self.casts_output:
            result = result.to(hidden.dtype)
        change = self.up(self.down(self.dropout(hidden.to(self.down.weight.dtype)))) * 2.0
        if self.magnitude is not None:
            scale = self.magnitude / torch.ones_like(self.magnitude)
            change = (scale - 1) * result + scale * change
        total: torch.Tensor = result + change
        return total.to(result.dtype)


def _layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The list of the model's layers: of those as long as the configuration says, the one with the most parameters."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    return max(lists, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))


@contextmanager
def _only(layers: torch.nn.ModuleList, chosen: Sequence[torch.nn.Module]) -> Iterator[None]:
    before = layers._modules
    layers._modules = {str(number): layer for number, layer in enumerate(chosen)}
    try:
        yield
    finally:
        layers._modules = before


@contextmanager
def _few_tiles() -> Iterator[None]:
    """Let the head compute its first two tiles and its last: those between hold what the second holds."""
    every = heads.split_range

    def few(length: int, size: int) -> list[slice]:
        spans = every(length, size)
        return spans if len(spans) < 4 else [*spans[:2], spans[-1]]

    heads.split_range = few
    try:
        yield
    finally:
        heads.split_range = every


def _pair(size: PairSize) -> TokenPair:
    """A pair of these lengths whose answers differ from the first token on."""
    counts = (size.prompt, size.chosen, size.rejected)
    prompt, chosen, rejected = (torch.full((count,), value, dtype=torch.int64) for value, count in enumerate(counts))
    return TokenPair("", prompt, chosen, rejected)


def _sized(batch: MicroBatch, mode: FakeTensorMode) -> MicroBatch:
    sizes: dict[str, Any] = {
        name: mode.from_tensor(value) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    }
    return replace(batch, **sizes)


def _trls_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The operations of trl 1.16's concatenated_forward on the logits, (2 × pairs, tokens, words)."""
    pairs = len(logits) // 2
    shifted = logits[:pairs, :-1].contiguous()
    nll = cross_entropy(shifted.view(-1, shifted.shape[-1]), ids[:pairs, 1:].flatten())
    inputs, targets = logits[:, :-1], ids[:, 1:, None]
    if logits.dtype is torch.float32:
        normalizers = torch.stack([torch.logsumexp(row, dim=-1) for row in inputs])
        logps = torch.gather(inputs, -1, targets).squeeze(-1) - normalizers
    else:
        rows = [torch.log_softmax(row, dim=-1) for row in inputs]
        logps = torch.stack([row.gather(-1, at) for row, at in zip(rows, targets, strict=True)]).squeeze(-1)
    return nll + logps.mean()
