"""Memory estimate of a step, from the configuration of the model and the lengths of the pairs.

Weights, adapter, gradients and optimizer states are counted. Activations come from ``Trace``: the code of the model and of the
engine, run on tensors without data (``orpo_cli.training.memory_trace``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orpo_cli.estimate.batching import checked_pairs, first_step, largest_micro_batch
from orpo_cli.estimate.pair_lengths import PairLengths, PairSize
from orpo_cli.estimate.parameter_counts import SAME_INPUT, count_trained_by_adapter, optimizer_bytes
from orpo_cli.machine import Machine, has_gpu_libraries
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.plan import Plan, PlanDraft
from orpo_cli.recipe.schema import LoraSection

HEADROOM = 0.9  # of the available memory; the rest is for what the estimate does not count
# On a CPU: Python with torch, transformers, trl and peft; measured, the second with a torch that was built for CUDA.
CPU_BUILD_BYTES, GPU_BUILD_BYTES = 0.62e9, 0.95e9
DEVICE_BYTES = 0.8e9  # on a GPU: the CUDA context and the kernels' workspaces; not measured
# Allocated memory over live activations. glibc's heap is fragmented, since some aligned blocks do not fit into the gaps between
# live blocks: measured (docs/memory.md) with the heap settings of `orpo train` and `training.allocator`. For the caching
# allocator of a GPU 5% are assumed.
HEAP_OVERHEAD, CACHE_OVERHEAD = 1.2, 1.05
# Each input of a checkpointed layer stays between freed blocks of the layer: in the heap this takes more, of what is kept between
# the passes. Measured for 6 and 12 layers and 1,024 to 16,384 tokens.
CHECKPOINTED_HEAP_OVERHEAD = 0.55
TILE_BYTES = 8 * 4096 * 16384  # on a GPU: the tile of logits in the head, larger than in the trace
BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Activations:
    """Peak bytes of a micro-batch without weights and gradients, of the layers and of the head.

    ``untraced``: why this is a rough estimate from the widths of the layers; None for a trace. The other fields are totals at
    other times than the peak's: in the forward pass, between the passes (``kept``), and in backward after the head.
    """

    layers: float
    head: float
    untraced: str | None = None
    forward: float = 0
    kept: float = 0
    after_head: float = 0

    @property
    def total(self) -> float:
        """Layers and head."""
        return self.layers + self.head

    def plus(self, other: Activations, times: float = 1) -> Activations:
        """The sum of these and ``times`` the others."""
        return Activations(self.layers + times * other.layers, self.head + times * other.head)


@dataclass(frozen=True)
class Computation:
    """Settings that decide, with the architecture, the memory of a token. ``autocast``: the dtype of its products."""

    dtype: str
    autocast: str | None = None
    attention: str = "sdpa"
    lora: LoraSection | None = None
    fast_path: bool = True
    fused_lora: bool = True  # the fast path computes a linear layer and its adapter in one function where possible
    # norms are float32, and linear layers return the dtype of their input: trl's 4-bit models
    upcast_norms: bool = False
    checkpointing: bool = False
    every_n_layers: int = 1  # of which one is checkpointed
    offload: bool = False  # the inputs of checkpointed layers wait in main memory
    loss_on_prompt: bool = True
    disable_dropout: bool = True
    accumulates: bool = True  # gradients of earlier micro-batches are in memory
    embedding_dtype: str | None = (
        None  # where it is another one: FSDP gathers the other float32 weights in half precision
    )


Trace = Callable[[Computation, Sequence[PairSize]], Activations]


@dataclass(frozen=True)
class Memory:
    """Peak bytes of a step, by part."""

    process: float
    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All parts."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class EstimateInputs:
    """Inputs of an estimate besides the plan."""

    machine: Machine
    facts: ModelFacts
    lengths: PairLengths
    trace: Trace

    @property
    def available_bytes(self) -> int:
        """Bytes that a run can use on this machine."""
        device_bytes, free = self.machine.device_memory_bytes, self.machine.available_bytes
        if device_bytes is not None:
            return min(device_bytes, free or device_bytes)
        return free or self.machine.ram_bytes


def computation_of(plan: Plan) -> Computation:
    """The computation settings of ``plan``."""
    training = plan.training
    half = "bfloat16" if training.get("bf16") else "float16" if training.get("fp16") else None
    dtype = plan.model.dtype
    in_4_bits = plan.quantization is not None and plan.quantization.load_in_4bit
    if plan.quantization is not None and half is None:
        dtype = "float32"  # peft's prepare_model_for_kbit_training
    options = checkpointing_options(plan)
    gathered = half is not None and dtype == "float32" and plan.launch.strategy == "fsdp"
    return Computation(
        dtype="bfloat16" if gathered else dtype,
        embedding_dtype=dtype if gathered else None,
        autocast="bfloat16" if half else None,  # float16 is as wide
        attention="eager" if plan.model.attn_implementation == "eager" else "sdpa",
        lora=plan.lora,
        fast_path=plan.engine.fast_path != "off",
        fused_lora=plan.quantization is None or (in_4_bits and plan.device == "cuda"),
        upcast_norms=in_4_bits and training.get("bf16", False),
        checkpointing=uses_checkpointing(plan),
        every_n_layers=int(options.get("every_n_layers", 1)),
        offload=bool(options.get("offload")),
        loss_on_prompt=bool(training.get("loss_on_prompt", True)),
        disable_dropout=bool(training.get("disable_dropout", True)),
    )


def uses_checkpointing(plan: PlanDraft) -> bool:
    """Whether activations are recomputed in the backward pass."""
    return bool(plan.training.get("gradient_checkpointing") or plan.training.get("activation_checkpointing"))


def checkpointing_options(plan: PlanDraft) -> dict[str, Any]:
    """The arguments of checkpointing, such as ``every_n_layers`` and ``offload``; empty where it is off."""
    given: Any = {}
    if uses_checkpointing(plan):
        given = plan.training.get("activation_checkpointing_kwargs") or plan.training.get(
            "gradient_checkpointing_kwargs"
        )
    return json.loads(given) if isinstance(given, str) else dict(given or {})


def trace_largest_micro_batch(plan: Plan, inputs: EstimateInputs) -> tuple[Activations, int]:
    """Activations of the largest micro-batch, and the number of micro-batches in its step."""
    pairs, micro_batches = largest_micro_batch(plan, inputs.lengths)
    return inputs.trace(replace(computation_of(plan), accumulates=micro_batches > 1), pairs), micro_batches


def estimate_memory(plan: Plan, inputs: EstimateInputs) -> Memory:
    """Peak memory of a process in a step."""
    facts, lora = inputs.facts, plan.lora
    live, micro_batches = trace_largest_micro_batch(plan, inputs)
    waste = CACHE_OVERHEAD if plan.device != "cpu" else HEAP_OVERHEAD
    width = BYTES_PER_ELEMENT[plan.model.dtype]
    adapter, others = count_trained_by_adapter(facts, lora) if lora is not None else (0, facts.parameters)
    trained_width = width if lora is None else 4
    trained = adapter + others
    gradients = 0.0 if "lomo" in plan.training["optim"] else float(trained * trained_width)
    optimizer = optimizer_bytes(plan.training["optim"], trained_width) * trained
    activations, logits = live.layers * waste, live.head * waste + head_tile_bytes(plan, facts)
    if plan.device == "cpu" and computation_of(plan).checkpointing:
        activations += CHECKPOINTED_HEAP_OVERHEAD * live.kept
    if micro_batches == 1 and lora is None:  # each gradient is allocated while activations are freed
        activations = max(0.0, activations - gradients)
    if plan.engine.fast_path == "on":  # the comparison before the first step, without optimizer states
        how = replace(computation_of(plan), fast_path=False, checkpointing=False, accumulates=False)
        first = inputs.trace(how, checked_pairs(facts.vocab_size, first_step(plan, inputs.lengths))).total * waste
        activations = max(activations, first - logits - optimizer)
    return Memory(
        process=process_bytes(plan),
        weights=weight_bytes(plan, facts) + dequantized_bytes(plan, facts),
        adapter=float((4 + adapter_copy_width(plan)) * adapter + (0 if lora is None else 4 * others)),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
    )


def adapter_copy_width(plan: Plan) -> int:
    """Bytes of each adapter weight's copy in half precision, of which the trace counts those of one layer under checkpointing."""
    half = plan.training.get("bf16") or plan.training.get("fp16")
    return 2 if half and uses_checkpointing(plan) and plan.engine.fast_path == "on" else 0


def process_bytes(plan: Plan) -> float:
    """Bytes that a process takes on the device of ``plan`` before it loads anything."""
    return host_process_bytes() if plan.device == "cpu" else DEVICE_BYTES


def host_process_bytes() -> float:
    """Bytes of main memory that a process takes before it loads anything, with the torch that is installed here."""
    return GPU_BUILD_BYTES if has_gpu_libraries() else CPU_BUILD_BYTES


def head_tile_bytes(plan: Plan, facts: ModelFacts) -> float:
    """Bytes of the tile of logits in the head that the trace, whose tiles are smaller, does not count."""
    if plan.device != "cuda" or plan.engine.fast_path == "off":
        return 0.0
    return min(1.0, facts.vocab_size / 16384) * TILE_BYTES


def weight_bytes(plan: Plan, facts: ModelFacts) -> float:
    """Bytes of the base weights."""
    section = plan.quantization
    width: float = BYTES_PER_ELEMENT[plan.model.dtype]
    if section is None or not (section.load_in_4bit or section.load_in_8bit):
        return facts.parameters * width
    quantized = sum(out * into for _, out, into in facts.linear_layers)
    scales = 0.016 if section.bnb_4bit_use_double_quant else 0.0625  # one for 64 weights, in 1 or 4 bytes
    each = 0.5 + scales if section.load_in_4bit else 1.0
    other = 2 if plan.training.get("bf16") else 4  # unquantized weights: peft keeps float32, trl casts to bfloat16
    return quantized * each + (facts.parameters - quantized) * other


def dequantized_bytes(plan: Plan, facts: ModelFacts) -> float:
    """Bytes of the largest weights that are dequantized for a product: of one layer or of layers with the same input.

    The engine on CUDA copies them next to the adapter's.
    """
    if plan.quantization is None:
        return 0.0
    sizes = {name: out * into for name, out, into in facts.linear_layers}
    largest, copies = max(sizes.values(), default=0), 1
    if (
        plan.device == "cuda"
        and plan.lora is not None
        and plan.quantization.load_in_4bit
        and plan.engine.fast_path == "on"
    ):
        joined = Counter[str]()
        for name, size in sizes.items():
            parent, _, child = name.rpartition(".")
            joined.update({f"{parent}.{names[0]}": size for names in SAME_INPUT if child in names})
        largest, copies = max(largest, *joined.values(), 0), 2
    return float(copies * largest * BYTES_PER_ELEMENT.get(plan.quantization.bnb_4bit_compute_dtype, 4))


def with_training_args(plan: Plan, **training: Any) -> Plan:
    """``plan`` with other training arguments, or another ``budget`` of tokens."""
    budget = training.pop("budget", plan.engine.max_tokens_per_microbatch)
    engine = plan.engine.model_copy(update={"max_tokens_per_microbatch": budget})
    return plan.model_copy(update={"training": {**plan.training, **training}, "engine": engine})


def rough_activations(facts: ModelFacts, how: Computation, pairs: Sequence[PairSize], why: str) -> Activations:
    """Activations from widths alone, for a model that cannot be traced; ``why``: the reason."""
    tokens = sum(pair.packed for pair in pairs)
    if not how.fast_path:
        tokens = 2 * len(pairs) * max(pair.longest for pair in pairs)
    width = 2 if how.autocast or how.dtype != "float32" else 4
    inside = width * (8 * facts.hidden_size + 4 * facts.intermediate_size)  # saved tensors of a Llama layer, a token
    layer = width * facts.hidden_size if how.checkpointing else inside
    layers = tokens * (facts.num_hidden_layers * layer + (inside if how.checkpointing else 0))
    head = 6e7 + 3.0 * tokens * facts.hidden_size * width if how.fast_path else tokens * facts.vocab_size * (4 * 3.5)
    return Activations(layers, head, untraced=why, forward=layers + head, kept=layers, after_head=layers)
