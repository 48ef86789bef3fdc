"""Trace of FSDP2: peak bytes on a rank, with a fake process group of any size and tensors without data.

``shard_model`` shards as in training. The process group is of the process, so this runs in a process of its own:
``python -m support.fsdp_trace`` prints its figures for ``CASES`` as JSON,
and with names of recipes those of the recipes.
"""

from __future__ import annotations

import json
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig

from orpo_cli.estimate import strategies
from orpo_cli.estimate.batching import largest_micro_batch
from orpo_cli.estimate.memory import Computation, computation_of
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.estimate.strategies import Strategy, estimate_strategy
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import FsdpConfig, LoraSection
from orpo_cli.report.console import Console
from orpo_cli.training.allocation_counter import AllocationCounter
from orpo_cli.training.engine import lm_head, orpo_loss
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.packed_attention import attention_configs, use_packed_attention
from orpo_cli.training.engine.packed_step import forward_packed, patched_forwards
from orpo_cli.training.engine.packing import pack
from orpo_cli.training.memory_trace import MemoryTracer, _few_tiles, _pair
from orpo_cli.training.sharding import deferred_reduction, shard_model
from orpo_cli.workflows.plan import build_plan

WORLD_SIZES = (2, 8, 64)
PAIRS = (PairSize(40, 100, 110),) * 2


@dataclass(frozen=True)
class Case:
    """A traced training, with autocast to bfloat16."""

    dtype: str = "bfloat16"
    tied: bool = False
    lora: LoraSection | None = None


CASES = {
    "full": Case(),
    "full, float32": Case(dtype="float32"),
    "full, tied": Case(tied=True),
    "full, tied, float32": Case(dtype="float32", tied=True),
    "lora": Case(lora=LoraSection(r=16)),
    "lora, tied": Case(lora=LoraSection(r=16), tied=True),
}


def llama(tied: bool) -> LlamaConfig:
    """A small Llama with the proportions of a large one."""
    return LlamaConfig(
        vocab_size=16_000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
    )


class ShardedCounter(AllocationCounter):
    """Bytes of live storages, those of FSDP2's buffers included, which it empties and fills again."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, accumulates=True)
        self.live = self.peak = 0
        self.sizes: weakref.WeakKeyDictionary[Any, list[int]] = weakref.WeakKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._count(getattr(tensor, "_local_tensor", tensor).untyped_storage())

    def _count(self, storage: Any) -> None:
        if storage not in self.sizes:
            size = self.sizes[storage] = [0]
            weakref.finalize(storage, self._free_size, size)
        self._resize(storage)

    def _resize(self, storage: Any) -> None:
        size = self.sizes[storage]
        self.live += storage.nbytes() - size[0]
        size[0] = storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _free_size(self, size: list[int]) -> None:
        self.live -= size[0]

    @contextmanager
    def observe_buffers(self) -> Iterator[None]:
        """Context in which changes of FSDP2's buffers are counted."""
        originals = {name: getattr(_fsdp_param, name) for name in ("alloc_storage", "free_storage")}

        def counted(name: str) -> Any:
            def change(tensor: torch.Tensor) -> None:
                originals[name](tensor)
                self._count(tensor.untyped_storage())

            return change

        for name in originals:
            setattr(_fsdp_param, name, counted(name))
        try:
            yield
        finally:
            for name, function in originals.items():
                setattr(_fsdp_param, name, function)


def peak_bytes(
    world_size: int, config: Any, computation: Computation, pairs: Sequence[PairSize], micro_batches: int = 2
) -> int:
    """Peak of the second micro-batch on a rank, or of the only one: shards of weights and gradients, buffers and activations."""
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (world_size,))
        tracer = MemoryTracer(config, computation)
        for layer in tracer.layers:
            tracer._make_fake(layer)
        packed = pack([_pair(number, size) for number, size in enumerate(pairs)], computation.loss_on_prompt)
        with tracer.mode, _few_tiles():
            return _train(tracer, mesh, packed.map_tensors(tracer.mode.from_tensor), min(2, micro_batches))
    finally:
        dist.destroy_process_group()


def _train(tracer: MemoryTracer, mesh: Any, batch: Any, micro_batches: int) -> int:
    model: Any = tracer.model
    for parameter in model.parameters():
        parameter.grad = None
    fused = fused_norms_and_gates(model, verify=False)
    shard_model(model, mesh, FsdpConfig(), torch.bfloat16)
    counter = ShardedCounter(model)
    with (
        counter,
        counter.observe_buffers(),
        use_packed_attention(attention_configs(model), batch),
        patched_forwards(fused),
    ):
        for number in range(micro_batches):
            counter.peak = counter.live
            with torch.autocast("cpu", torch.bfloat16):
                output = forward_packed(model, model.lm_head, lm_head.logit_transform(model), batch)
            totals = orpo_loss.StepTotals(batch.num_tokens, batch.num_pairs)
            loss, _ = orpo_loss.loss_share(output.log_probs, batch, totals, 0.1)
            del output
            whole = number + 1 < micro_batches and tracer.computation.lora is not None
            with deferred_reduction(model) if whole else nullcontext():
                loss.backward()
            del loss
    return counter.peak


def trace_case(world_size: int, case: Case) -> int:
    computation = Computation(case.dtype, autocast="bfloat16", lora=case.lora)
    return peak_bytes(world_size, llama(case.tied), computation, PAIRS)


def trace_recipe(name: str) -> str:
    """Estimate and trace of a recipe's largest micro-batch, without the optimizer, the process and what only a device adds."""
    result = build_plan(load_recipe(name), Console(quiet=True), to_train=False, strict=False)
    plan, inputs = result.plan, result.estimate_inputs
    assert inputs is not None
    pairs, micro_batches = largest_micro_batch(plan, inputs.lengths)
    computation = replace(computation_of(plan), dtype=plan.model.dtype, embedding_dtype=None)
    traced = peak_bytes(plan.launch.num_processes, inputs.facts.config, computation, pairs, micro_batches)
    vars(strategies).update(CACHE_OVERHEAD=1.0, head_tile_bytes=lambda *_: 0.0)
    found = estimate_strategy(plan, inputs, Strategy("fsdp"))
    ours = found.total - found.memory.process - found.memory.optimizer
    return f"{name}: {plan.launch.num_processes} ranks, formula {ours / 1e9:.1f} GB, traced {traced / 1e9:.1f} GB"


def main() -> None:
    """Print the peaks of all cases, or those of the recipes in the arguments."""
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    for name in sys.argv[1:]:
        print(trace_recipe(name), flush=True)
    if not sys.argv[1:]:
        found = {name: {size: trace_case(size, case) for size in WORLD_SIZES} for name, case in CASES.items()}
        sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
