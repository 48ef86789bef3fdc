"""Distributed strategies: memory of a device and of the host, and bytes communicated in a step, for several processes.

DDP replicates weights, gradients and optimizer states. FSDP2 shards all three and gathers the weights of a layer for its
computation. DeepSpeed's ZeRO shards optimizer states (stage 1), gradients too (2), and weights too (3); its optimizer updates
float32 copies of the trained weights. Offloading moves the shards to the main memory of the host.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

from orpo_cli.estimate.memory import (
    BYTES_PER_ELEMENT,
    CACHE_OVERHEAD,
    HEAP_OVERHEAD,
    EstimateInputs,
    Memory,
    computation_of,
    dequantized_bytes,
    estimate_memory,
    head_tile_bytes,
    host_process_bytes,
    process_bytes,
    trace_largest_micro_batch,
    weight_bytes,
)
from orpo_cli.estimate.parameter_counts import LAYER_INDEX, count_trained_by_adapter, optimizer_bytes
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import LaunchPlan, Plan

SHARDED_OPTIMIZER = "adamw_torch_fused"  # where the states of the planned optimizer cannot be sharded or offloaded
DDP_BUCKETS = 2 * 25e6  # bytes: one bucket of gradients is filled while another one is summed
FLOAT32 = 4  # bytes
MAX_LIVE_PARAMETERS = 1e9  # DeepSpeed's stage3_max_live_parameters
SUB_GROUP = 1e9  # DeepSpeed's sub_group_size: parameters that ZeRO-3 updates at once


@dataclass(frozen=True)
class Strategy:
    """A division of training among processes. ``zero``: the ZeRO stage, 0 without DeepSpeed."""

    launch: Literal["ddp", "fsdp", "deepspeed"]
    zero: int = 0
    offload_optimizer: bool = False
    offload_weights: bool = False

    @property
    def name(self) -> str:
        """Name in tables: ``ddp``, ``fsdp``, ``zero-2``, ``zero-3, optimizer on host``, ``zero-3, all on host``."""
        offloaded = ", all on host" if self.offload_weights else ", optimizer on host" if self.offload_optimizer else ""
        return (f"zero-{self.zero}" if self.zero else self.launch) + offloaded

    @property
    def config(self) -> dict[str, Any] | None:
        """DeepSpeed's configuration; None for another strategy."""
        if not self.zero:
            return None
        zero: dict[str, Any] = {"stage": self.zero}
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload_weights:
            zero["offload_param"] = {"device": "cpu"}
        return {"zero_optimization": zero}


STRATEGIES = (
    Strategy("ddp"),
    Strategy("fsdp"),
    Strategy("deepspeed", 1),
    Strategy("deepspeed", 2),
    Strategy("deepspeed", 3),
    Strategy("fsdp", 0, True, True),
    Strategy("deepspeed", 1, True),
    Strategy("deepspeed", 2, True),
    Strategy("deepspeed", 3, True),
    Strategy("deepspeed", 3, True, True),
)


def strategy_of(launch: LaunchPlan) -> Strategy:
    """The strategy of several processes that a plan has."""
    if launch.strategy == "deepspeed":
        zero = (launch.deepspeed_config or {}).get("zero_optimization", {})
        offloads = [
            (zero.get(key) or {}).get("device") in ("cpu", "nvme") for key in ("offload_optimizer", "offload_param")
        ]
        return Strategy("deepspeed", zero.get("stage", 2), *offloads)
    if launch.strategy == "fsdp":
        offload = launch.fsdp_config is not None and launch.fsdp_config.offload_params
        return Strategy("fsdp", 0, offload, offload)
    return Strategy("ddp")


@dataclass(frozen=True)
class StrategyEstimate:
    """Peak bytes of a step. ``memory``: of a device by part, without ``buffers``, which hold gathered weights and gradients on
    their way. ``host``: main memory of a machine. ``sent``: by each process in a step. ``setting``: that it needs.
    """

    strategy: Strategy
    memory: Memory
    buffers: float
    host: float
    sent: float
    setting: str | None = None

    @property
    def total(self) -> float:
        """All parts on a device."""
        return self.memory.total + self.buffers


def obstacle(plan: Plan, strategy: Strategy) -> str | None:
    """Why ``plan`` cannot be trained with ``strategy``; None where it can."""
    section = plan.quantization
    if section is None:
        return None
    if strategy.zero == 3:
        return "quantized weights cannot be partitioned"
    if strategy.launch == "fsdp" and section.load_in_8bit:
        return "8-bit weights cannot be sharded"
    return None


def needed_setting(plan: Plan, strategy: Strategy) -> str | None:
    """The setting without which ``strategy`` cannot train ``plan``; None where no other setting is needed."""
    optimizer, section = str(plan.training["optim"]), plan.quantization
    bitsandbytes = optimizer.startswith("paged_") or "bit" in optimizer or "bnb" in optimizer
    sharded_by_fsdp = strategy.launch == "fsdp" and bitsandbytes
    if sharded_by_fsdp or (strategy.offload_optimizer and not optimizer.startswith("adamw_torch")):
        return f"training.optim: {SHARDED_OPTIMIZER}"
    if strategy.launch == "fsdp" and section is not None and section.bnb_4bit_quant_storage != plan.model.dtype:
        return f"quantization.bnb_4bit_quant_storage: {plan.model.dtype}"
    return None


def estimate_strategy(plan: Plan, inputs: EstimateInputs, strategy: Strategy) -> StrategyEstimate:
    """Memory and communication of ``plan`` with its number of processes and ``strategy``."""
    setting, count = needed_setting(plan, strategy), plan.launch.num_processes
    if setting is not None and setting.startswith("training.optim"):
        plan = plan.model_copy(update={"training": {**plan.training, "optim": SHARDED_OPTIMIZER}})
    if strategy.launch == "ddp":
        memory, host = estimate_memory(plan, inputs), count / plan.launch.num_machines * host_process_bytes()
        sent = 2 * (count - 1) / count * memory.gradients
        return StrategyEstimate(strategy, memory, min(DDP_BUCKETS, 2 * memory.gradients), host, sent, setting)
    stored, dtype = weight_bytes(plan, inputs.facts), plan.model.dtype
    plan = plan.model_copy(update={"launch": plan.launch.model_copy(update={"strategy": strategy.launch})})
    if strategy.launch == "fsdp":
        return _Sharded(plan, inputs, strategy, setting).fsdp(stored, BYTES_PER_ELEMENT[dtype])
    if dtype == "float32" and (plan.training.get("bf16") or plan.training.get("fp16")):
        plan = plan.model_copy(update={"model": plan.model.model_copy(update={"dtype": "bfloat16"})})
    return _Sharded(plan, inputs, strategy, setting).zero()


@dataclass(frozen=True)
class _Shards:
    """Bytes on a device. ``base``: frozen weights; ``trained``: an adapter, or all weights."""

    base: float
    trained: float
    gradients: float
    optimizer: float


class _Sharded:
    """The arithmetic of the sharded strategies."""

    def __init__(self, plan: Plan, inputs: EstimateInputs, strategy: Strategy, setting: str | None) -> None:
        self.plan, self.facts, self.strategy, self.setting = plan, inputs.facts, strategy, setting
        self.count = plan.launch.num_processes
        self.optimizer = str(plan.training["optim"])
        self.bytes = BYTES_PER_ELEMENT[computation_of(plan).dtype]  # of an element in computation
        self.full = plan.lora is None
        # Numbers of parameters.
        self.all = inputs.facts.parameters
        self.trained = self.all if plan.lora is None else sum(count_trained_by_adapter(inputs.facts, plan.lora))
        self.layer = _largest_layer(inputs.facts)
        self.head = inputs.facts.vocab_size * inputs.facts.hidden_size
        self.tied = inputs.facts.ties_embeddings
        # Bytes.
        self.live, self.micro_batches = trace_largest_micro_batch(plan, inputs)
        self.waste = CACHE_OVERHEAD if plan.device != "cpu" else HEAP_OVERHEAD
        self.tile = head_tile_bytes(plan, inputs.facts)

    def fsdp(self, stored: float, own: int) -> StrategyEstimate:
        """FSDP2: shards in the dtype of the weights; layers and head are gathered in half precision and reduced in float32.

        ``stored``: bytes of the base weights as they are loaded. ``own``: bytes of an element of the embedding, which is
        gathered and reduced in its own dtype, also as the head.
        """
        live, waste, reduced = self.live, self.waste, 1 + 1 / self.count  # input and output of a reduction
        head, of_head = self.head * (own if self.tied else self.bytes), self.head if self.full else 0.0
        trained_layer = self.layer if self.full else self.layer * self.trained / self.all  # adapters are in the layers
        layers = self.bytes * (2 * self.layer + trained_layer)  # the next one is gathered meanwhile
        if self.tied:  # gathered from the embedding's forward pass to the end of backward, with its gradient
            forward, backward = head, head + own * of_head
            after_head = head + FLOAT32 * reduced * trained_layer  # the trace has the head's gradient
        else:  # the input of a reduction is kept until the next one
            forward = 2 * head  # and the buffer of the collective
            backward = max(head + self.bytes * of_head, (self.bytes + FLOAT32 * reduced) * of_head)
            after_head = max(FLOAT32 * of_head, FLOAT32 * reduced * trained_layer)
        width = own if self.full else FLOAT32
        shard, passes = width * self.trained / self.count, self.micro_batches
        # Gradients are allocated while activations are freed.
        later = shard if self.full and passes == 1 and not self.strategy.offload_weights else 0.0
        peak = max(
            live.forward * waste + self.tile + forward - later,
            live.kept * waste + max(self.tile + head, backward) + self.bytes * self.layer - later,
            live.after_head * waste + after_head + layers - later,
            own * (self.head + (1 + reduced) * of_head) + FLOAT32 * trained_layer,  # the embedding
        )
        # An adapter is reduced at the end of a step.
        whole = FLOAT32 * self.trained if not self.full and passes > 1 else 0.0
        outside = head if self.tied else head + 2 * own * self.head
        gathered = 2 * self.bytes * (self.all - (1 if self.tied else 2) * self.head) + outside
        return self._estimate(
            _Shards(
                base=0.0 if self.full else stored / self.count,
                trained=shard,
                gradients=shard + whole,
                optimizer=optimizer_bytes(self.optimizer, width) * self.trained / self.count,
            ),
            peak=peak,
            loading=stored * self.count,  # each process reads the model into main memory
            sent=passes * gathered + (passes if self.full else 1) * FLOAT32 * self.trained,
        )

    def zero(self) -> StrategyEstimate:
        """ZeRO: weights and gradients in the dtype of computation, float32 copies and states in the optimizer's shards."""
        stage, count, trained = self.strategy.zero, self.count, self.bytes * self.trained
        buckets = 2 * self.bytes * self.facts.hidden_size**2  # reduce_bucket_size "auto"
        peak = self.live.total * self.waste + self.tile + buckets
        sent = trained * (1 if stage == 1 else self.micro_batches)
        if stage == 3:
            peak += self.bytes * min(max(MAX_LIVE_PARAMETERS, self.layer), self.all)
            sent += self.micro_batches * 2 * self.bytes * self.all
        else:
            sent += trained
        if not self.strategy.offload_optimizer:  # at the end of a step the gradients are converted
            peak = max(peak, FLOAT32 * min(self.trained / count, SUB_GROUP if stage == 3 else self.trained))
        states = (optimizer_bytes(self.optimizer, FLOAT32) + FLOAT32) * self.trained / count
        divided = count if stage == 3 else 1
        base = 0.0 if self.full else weight_bytes(self.plan, self.facts)
        return self._estimate(
            _Shards(base / divided, trained / divided, trained / (1 if stage == 1 else count), states),
            peak=peak,
            loading=FLOAT32 * self.layer * count if stage == 3 else 0,
            sent=sent,
        )

    def _estimate(self, shards: _Shards, *, peak: float, loading: float, sent: float) -> StrategyEstimate:
        """The estimate, with the offloaded shards in main memory; ``peak``: bytes of everything but the shards."""
        strategy, host = self.strategy, 0.0
        if strategy.offload_optimizer:
            host += self.count * shards.optimizer + FLOAT32 * self.trained  # gradients in float32
            if strategy.zero in (1, 2):
                host += self.bytes * self.trained  # updated weights, to be copied to the devices
            shards = replace(shards, optimizer=0.0, gradients=shards.gradients if strategy.zero == 1 else 0.0)
        if strategy.offload_weights:
            host += self.count * (shards.base + shards.trained)
            shards = replace(shards, base=0.0, trained=0.0)
        activations, logits = self.live.layers * self.waste, self.live.head * self.waste + self.tile
        memory = Memory(
            process=process_bytes(self.plan),
            weights=shards.base + (shards.trained if self.full else 0) + dequantized_bytes(self.plan, self.facts),
            adapter=0.0 if self.full else shards.trained,
            gradients=shards.gradients,
            optimizer=shards.optimizer,
            activations=min(activations, peak),
            logits=min(logits, max(0.0, peak - activations)),
        )
        buffers = max(0.0, peak - activations - logits)
        host = (self.count * host_process_bytes() + max(loading, host)) / self.plan.launch.num_machines
        return StrategyEstimate(strategy, memory, buffers, host, sent * (self.count - 1) / self.count, self.setting)


def _largest_layer(facts: ModelFacts) -> float:
    """Parameters of the largest decoder layer; the mean where the linear layers are not all (experts are one tensor)."""
    linear: Counter[str] = Counter()
    for name, out, into in facts.linear_layers:
        if found := LAYER_INDEX.search(name):
            linear[found[1]] += out * into
    in_layers = facts.parameters - (1 if facts.ties_embeddings else 2) * facts.vocab_size * facts.hidden_size
    return max(0.0, in_layers / max(1, facts.num_hidden_layers), *linear.values())
