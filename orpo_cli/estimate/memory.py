"""How much memory and time a step takes, from the configuration of the model and the lengths of the pairs.

Weights, adapter, gradients and optimizer are counted. What lives during forward and backward pass comes from ``Trace``:
the model's and the engine's own code, run on tensors without content (``orpo_cli.training.memory_trace``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist, fmean, pstdev
from typing import Any, NamedTuple

from orpo_cli.estimate.batching import CHECKED_PAIRS, max_checked_tokens, simulate_steps, split_by_token_budget
from orpo_cli.estimate.parameter_counts import count_trained_by_adapter, optimizer_bytes
from orpo_cli.machine import Machine
from orpo_cli.plan.model_facts import ModelFacts
from orpo_cli.plan.plan import Plan
from orpo_cli.recipe.schema import LoraSection

PROCESS_BYTES = 0.62e9  # on a CPU: Python with torch, transformers, trl and peft; measured
DEVICE_BYTES = 0.8e9  # on a GPU: the CUDA context and the kernels' workspaces; not measured
# glibc's heap keeps holes between blocks that live on, which aligned blocks of the same size do not fit into: what it takes
# for activations, against what lives. Measured (docs/memory.md), as `orpo train` sets the heap; the caching allocator of a GPU is
# taken to waste a twentieth.
HEAP_OVERHEAD, CACHE_OVERHEAD = 1.2, 1.05
TILE_BYTES = 8 * 4096 * 16384  # on a GPU: the head's tile of logits, which is larger there than in the trace
BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}


class PairSize(NamedTuple):
    """Tokens of a pair: the prompt, and each answer without it."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def packed(self) -> int:
        """Tokens that it takes in a row of the fast path."""
        return self.prompt + max(0, self.chosen - 1) + max(0, self.rejected - 1)

    @property
    def longest(self) -> int:
        """Tokens of its longer sequence."""
        return self.prompt + max(self.chosen, self.rejected)


@dataclass(frozen=True)
class Activations:
    """Bytes that a micro-batch holds at its peak, besides weights and gradients: the layers', and the head's.

    ``untraced`` says why it is a rough figure from the widths of the layers, where it is.
    """

    layers: float
    head: float
    untraced: str | None = None

    @property
    def total(self) -> float:
        """Both."""
        return self.layers + self.head

    def plus(self, other: Activations, times: float = 1) -> Activations:
        """This and ``times`` the other."""
        return Activations(self.layers + times * other.layers, self.head + times * other.head)


@dataclass(frozen=True)
class Computation:
    """What decides, beside the architecture, how much a token takes. ``autocast`` is the type it computes in."""

    dtype: str
    autocast: str | None = None
    attention: str = "sdpa"
    lora: LoraSection | None = None
    fast_path: bool = True
    fused_lora: bool = True  # the fast path computes a linear layer and its adapter in one function where it can
    upcast_norms: bool = (
        False  # norms are float32, and linear layers give the type of their input: trl's models in 4 bits
    )
    checkpointing: bool = False
    loss_on_prompt: bool = True
    disable_dropout: bool = True
    accumulates: bool = True  # gradients of other micro-batches are there, to which those of this one are added


Trace = Callable[[Computation, Sequence[PairSize]], Activations]


@dataclass(frozen=True)
class PairLengths:
    """The lengths of the training pairs; ``known`` says whether they are the data's, or the most that the recipe lets through."""

    pairs: tuple[PairSize, ...]
    measured: bool

    @property
    def longest(self) -> PairSize:
        """The pair that takes the most tokens in a row."""
        return max(self.pairs, key=lambda pair: pair.packed)

    def longest_of(self, count: int) -> PairSize:
        """The one that ``count`` drawn pairs come to, about: the longest of all where that many are drawn."""
        by_size = sorted(self.pairs, key=lambda pair: pair.packed)
        return by_size[min(len(by_size) - 1, round(len(by_size) * count / (count + 1)))]

    @property
    def mean(self) -> PairSize:
        """A pair of mean lengths."""
        count = len(self.pairs)
        return PairSize(*(round(sum(column) / count) for column in zip(*self.pairs, strict=True)))


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the peak of a step."""

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
    """What an estimate is made from, beside a plan."""

    machine: Machine
    facts: ModelFacts
    lengths: PairLengths
    trace: Trace

    @property
    def available_bytes(self) -> int:
        """Bytes that a run may take here."""
        if self.machine.device_memory_bytes is not None:
            return min(
                self.machine.device_memory_bytes, self.machine.available_bytes or self.machine.device_memory_bytes
            )
        return self.machine.available_bytes or self.machine.ram_bytes


def worst_case_lengths(plan: Plan) -> PairLengths:
    """The longest pair that the plan lets through: a short prompt and two answers that fill ``max_length``."""
    longest = plan.training["max_length"]
    prompt = max(1, min(plan.dataset.max_prompt_length or longest, longest // 8))
    return PairLengths((PairSize(prompt, longest - prompt, longest - prompt),), measured=False)


def computation_of(plan: Plan) -> Computation:
    """How ``plan`` computes."""
    training = plan.training
    half = "bfloat16" if training.get("bf16") else "float16" if training.get("fp16") else None
    dtype = plan.model.dtype
    quantized = plan.quantization is not None
    in_4_bits = plan.quantization is not None and plan.quantization.load_in_4bit
    if quantized and half is None:
        dtype = "float32"  # peft's prepare_model_for_kbit_training
    attention = plan.model.attn_implementation
    return Computation(
        dtype=dtype,
        autocast="bfloat16" if half else None,  # float16 is as wide
        attention="eager" if attention == "eager" else "sdpa",
        lora=plan.lora,
        fast_path=plan.engine.fast_path != "off",
        fused_lora=not quantized or (in_4_bits and plan.device == "cuda"),
        upcast_norms=in_4_bits and training.get("bf16", False),
        checkpointing=uses_checkpointing(plan),
        loss_on_prompt=bool(training.get("loss_on_prompt", True)),
        disable_dropout=bool(training.get("disable_dropout", True)),
    )


def uses_checkpointing(plan: Plan) -> bool:
    """Whether activations are computed again in the backward pass."""
    return bool(plan.training.get("gradient_checkpointing") or plan.training.get("activation_checkpointing"))


def pairs_per_step(plan: Plan) -> int:
    """The pairs that a process takes for an optimizer step."""
    return int(plan.training["per_device_train_batch_size"] * plan.training["gradient_accumulation_steps"])


def largest_micro_batch(plan: Plan, lengths: PairLengths) -> tuple[list[PairSize], int]:
    """The pairs of the largest micro-batch of the run, and how many micro-batches its step has.

    Of the steps themselves where it is known which pairs they draw; otherwise a usual one.
    """
    steps = simulate_steps(plan, len(lengths.pairs)) if lengths.measured else None
    if steps is None:
        return _usual_micro_batch(plan, lengths)
    packed = plan.engine.fast_path != "off"
    largest: tuple[int, list[PairSize], int] = (0, [], 1)
    for places in steps:
        pairs = [lengths.pairs[place] for place in places]
        for group, count in _micro_batches(plan, pairs):
            tokens = sum(each.packed for each in group) if packed else len(group) * max(each.longest for each in group)
            if tokens > largest[0]:
                largest = tokens, group, count
    return largest[1:]


def _micro_batches(plan: Plan, pairs: list[PairSize]) -> list[tuple[list[PairSize], int]]:
    """Those of a step, each with the number of them."""
    if plan.engine.fast_path == "off":
        size = plan.training["per_device_train_batch_size"]
        groups = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    else:
        cut = split_by_token_budget([pair.packed for pair in pairs], plan.engine.max_tokens_per_microbatch)
        groups = [[pairs[place] for place in places] for places in cut]
    return [(group, len(groups)) for group in groups]


def _usual_micro_batch(plan: Plan, lengths: PairLengths) -> tuple[list[PairSize], int]:
    """As ``largest_micro_batch``, by the distribution of the lengths."""
    batch, in_step = plan.training["per_device_train_batch_size"], pairs_per_step(plan)
    if plan.engine.fast_path == "off":
        longest = max(lengths.pairs, key=lambda pair: pair.longest)
        return [longest] * batch, in_step // batch
    steps = total_steps(plan, lengths)
    longest, mean = lengths.longest_of(steps * in_step), lengths.mean
    usual = min(_tokens_of_longest_step(lengths, in_step, steps), in_step * longest.packed)
    tokens = max(longest.packed, min(plan.engine.max_tokens_per_microbatch, usual))
    if longest.packed >= tokens:
        return [longest], max(1, math.ceil(in_step * mean.packed / tokens))
    count = max(1, min(in_step, round(tokens / max(1, mean.packed))))
    return _scale_pair(mean, count, tokens), max(1, math.ceil(usual / plan.engine.max_tokens_per_microbatch))


def total_steps(plan: Plan, lengths: PairLengths) -> int:
    """The optimizer steps of a run, as far as the lengths tell how many pairs there are."""
    if (most := plan.training.get("max_steps") or -1) > 0:
        return int(most)
    return max(1, round(float(len(lengths.pairs) * plan.training["num_train_epochs"] / pairs_per_step(plan))))


def _tokens_of_longest_step(lengths: PairLengths, in_step: int, steps: int) -> float:
    """Tokens of the longest of ``steps`` steps: their sums of many lengths lie about the mean as a normal distribution."""
    sizes = [pair.packed for pair in lengths.pairs]
    around = NormalDist(in_step * fmean(sizes), max(1e-9, math.sqrt(in_step) * pstdev(sizes)))
    return around.inv_cdf(steps / (steps + 1))


def _scale_pair(pair: PairSize, count: int, tokens: float) -> list[PairSize]:
    """``count`` pairs with the proportions of ``pair`` that take ``tokens`` together."""
    factor = tokens / max(1, count * pair.packed)
    return [PairSize(*(max(1, round(part * factor)) for part in pair))] * count


def trace_largest_micro_batch(plan: Plan, sizing: EstimateInputs) -> tuple[Activations, int]:
    """What the largest micro-batch holds, and how many its step has."""
    pairs, micro_batches = largest_micro_batch(plan, sizing.lengths)
    return sizing.trace(replace(computation_of(plan), accumulates=micro_batches > 1), pairs), micro_batches


def estimate_memory(plan: Plan, sizing: EstimateInputs) -> Memory:
    """What a process holds at the peak of a step."""
    facts, lora = sizing.facts, plan.lora
    live, micro_batches = trace_largest_micro_batch(plan, sizing)
    waste = CACHE_OVERHEAD if plan.device != "cpu" else HEAP_OVERHEAD
    width = BYTES_PER_ELEMENT[plan.model.dtype]
    adapter, others = count_trained_by_adapter(facts, lora) if lora is not None else (0, facts.parameters)
    trained_width = width if lora is None else 4
    trained = adapter + others
    gradients = 0.0 if "lomo" in plan.training["optim"] else float(trained * trained_width)
    optimizer = optimizer_bytes(plan.training["optim"], trained_width) * trained
    activations, logits = live.layers * waste, live.head * waste
    if plan.device == "cuda" and plan.engine.fast_path != "off":
        logits += min(1.0, facts.vocab_size / 16384) * TILE_BYTES
    if micro_batches == 1 and lora is None:  # gradients come as activations go
        activations = max(0.0, activations - gradients)
    if plan.engine.fast_path == "on":  # before the first step, when the optimizer keeps nothing yet
        how = replace(computation_of(plan), fast_path=False, checkpointing=False, accumulates=False)
        first = sizing.trace(how, checked_pairs(facts.vocab_size, _first_step(plan, sizing.lengths))).total * waste
        activations = max(activations, first - logits - optimizer)
    return Memory(
        process=PROCESS_BYTES if plan.device == "cpu" else DEVICE_BYTES,
        weights=weight_bytes(plan, facts) + _dequantized(plan, facts),
        adapter=float(4 * adapter + (0 if lora is None else 4 * others)),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
    )


def weight_bytes(plan: Plan, facts: ModelFacts) -> float:
    """The base weights, in the types they are held in."""
    section = plan.quantization
    width: float = BYTES_PER_ELEMENT[plan.model.dtype]
    if section is None or not (section.load_in_4bit or section.load_in_8bit):
        return facts.parameters * width
    quantized = sum(out * into for _, out, into in facts.linear_layers)
    scales = (
        0.016 if section.bnb_4bit_use_double_quant else 0.0625
    )  # for every 64, in 4 bytes, or in 1 where quantized too
    each = 0.5 + scales if section.load_in_4bit else 1.0
    other = (
        2 if plan.training.get("bf16") else 4
    )  # peft holds what is not quantized in float32, trl the rest in bfloat16
    return quantized * each + (facts.parameters - quantized) * other


def _dequantized(plan: Plan, facts: ModelFacts) -> float:
    """The largest matrix, which is there unquantized while it multiplies."""
    if plan.quantization is None:
        return 0.0
    return max((out * into for _, out, into in facts.linear_layers), default=0) * BYTES_PER_ELEMENT.get(
        plan.quantization.bnb_4bit_compute_dtype, 4
    )


def checked_pairs(vocab_size: int, first_step: Sequence[PairSize]) -> list[PairSize]:
    """The pairs that both paths compute before the first step (``training.engine.check``): the beginnings of its shortest two."""
    half = max_checked_tokens(vocab_size) // 2
    shortest = sorted(first_step, key=lambda pair: pair.packed)[:CHECKED_PAIRS]
    return [PairSize(*(min(part, half) for part in pair)) for pair in shortest]


def _first_step(plan: Plan, lengths: PairLengths) -> list[PairSize]:
    steps = simulate_steps(plan, len(lengths.pairs)) if lengths.measured else None
    if steps is not None:
        return [lengths.pairs[place] for place in next(steps)]
    by_size, in_step = sorted(lengths.pairs, key=lambda pair: pair.packed), pairs_per_step(plan)
    return [by_size[min(len(by_size) - 1, place * len(by_size) // (in_step + 1))] for place in range(1, in_step + 1)]


def with_training_args(plan: Plan, **training: Any) -> Plan:
    """``plan`` with other training arguments, or another ``budget``."""
    budget = training.pop("budget", plan.engine.max_tokens_per_microbatch)
    engine = plan.engine.model_copy(update={"max_tokens_per_microbatch": budget})
    return plan.model_copy(update={"training": {**plan.training, **training}, "engine": engine})


def rough_activations(facts: ModelFacts, how: Computation, pairs: Sequence[PairSize], why: str) -> Activations:
    """What ``Trace`` gives, from widths alone: for models whose code cannot run on tensors without content, for the reason given."""
    tokens = sum(pair.packed for pair in pairs)
    if not how.fast_path:
        tokens = 2 * len(pairs) * max(pair.longest for pair in pairs)
    width = 2 if how.autocast or how.dtype != "float32" else 4
    inside = width * (
        8 * facts.hidden_size + 4 * facts.intermediate_size
    )  # a llama-like layer's saved tensors, a token
    layer = width * facts.hidden_size if how.checkpointing else inside
    layers = tokens * (facts.num_hidden_layers * layer + (inside if how.checkpointing else 0))
    head = (
        tokens * facts.vocab_size * (4 * 3.5) if not how.fast_path else 6e7 + 3.0 * tokens * facts.hidden_size * width
    )
    return Activations(layers, head, untraced=why)
