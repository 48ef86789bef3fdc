"""Memory trace against the bytes that autograd keeps in a model with weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.allocated_storages import AllocatedStorages
from support.architectures import PACKED
from transformers import AutoModelForCausalLM

from orpo_cli.estimate.batching import checked_pairs
from orpo_cli.estimate.memory import Activations, Computation
from orpo_cli.estimate.pair_lengths import PairSize
from orpo_cli.recipe.schema import LoraSection
from orpo_cli.training.engine import orpo_loss
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.lm_head import logit_transform, patched_lm_head
from orpo_cli.training.engine.packed_attention import attention_configs, use_packed_attention
from orpo_cli.training.engine.packed_step import patched_forwards
from orpo_cli.training.engine.packing import TokenPair, pack
from orpo_cli.training.engine.parity_check import select_check_pairs
from orpo_cli.training.engine.recompute import recompute_in_backward
from orpo_cli.training.memory_trace import MemoryTracer, _pair

PAIRS = [PairSize(5, 30, 31), PairSize(4, 25, 20)]


def kept_bytes(config: Any, layers: int) -> int:
    """Bytes that live after a forward pass of a model with weights, its own left out."""
    return forward(config, layers)[0].living()


def forward(config: Any, layers: int) -> tuple[AllocatedStorages, Any, torch.Tensor]:
    """What a forward pass of a model with weights made, the model, and its loss."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.ModuleList):
            del module[layers:]
    batch = pack([_pair(number, size) for number, size in enumerate(PAIRS)], True)
    made = AllocatedStorages()
    with made, use_packed_attention(attention_configs(model), batch), patched_forwards(fused_norms_and_gates(model)):
        with (
            patched_lm_head(model.get_output_embeddings(), logit_transform(model), batch) as scores,
            recompute_in_backward(),
        ):
            model(
                input_ids=batch.input_ids,
                attention_mask=torch.ones_like(batch.input_ids),
                position_ids=batch.position_ids,
                use_cache=False,
            )
        loss = orpo_loss.loss_share(scores.log_probs, batch, orpo_loss.StepTotals(100, 2), 0.1)
    assert loss[0].requires_grad
    return made, model, loss[0]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "opt", "phi3", "olmo2"])
def test_the_trace_of_a_layer_equals_the_bytes_that_autograd_keeps(name: str) -> None:
    tracer = MemoryTracer(PACKED[name](), Computation("float32"))
    two, one = (tracer._run(tracer.layers[:count], PAIRS)[0].total for count in (2, 1))
    assert two - one == pytest.approx(kept_bytes(PACKED[name](), 2) - kept_bytes(PACKED[name](), 1), rel=0.02)


@pytest.mark.parametrize("accumulates", [False, True], ids=["first micro-batch", "later one"])
def test_tied_embeddings_take_the_traced_bytes_in_backward(accumulates: bool) -> None:
    """Their gradient comes in two parts, from the head and from the embedding; the rest of the model is small here."""
    config = PACKED["llama"]()
    config.vocab_size, config.tie_word_embeddings = 50_000, True
    made, model, loss = forward(config, config.num_hidden_layers)
    if accumulates:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    made.most = 0
    with made:
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = sum(each.nbytes for each in model.parameters())
    there = 0 if accumulates else gradients  # in all that was made
    traced = MemoryTracer(config, Computation("float32", accumulates=accumulates))(PAIRS).total
    assert traced + there == pytest.approx(made.most, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_extrapolated_layers_of_trained_weights_equal_a_trace_of_all_layers(checkpointing: bool) -> None:
    config = PACKED["llama"]()
    config.num_hidden_layers = 6
    computation = Computation("float32", checkpointing=checkpointing)
    tracer = MemoryTracer(config, computation)
    forward, layers, rest, kept, after_head = tracer._run(tracer.layers, PAIRS)
    found = tracer(PAIRS)
    assert found.total == pytest.approx(max(forward.total, layers.total, rest.total), rel=0.02)
    assert (found.forward, found.kept) == pytest.approx((forward.total, kept.total), rel=0.02)
    assert found.after_head == pytest.approx(after_head.total, rel=0.02)
    assert found.kept < found.forward
    assert found.after_head <= layers.total


def test_extrapolated_layers_equal_a_trace_of_all_layers() -> None:
    config = PACKED["llama"]()
    config.num_hidden_layers = 6
    tracer = MemoryTracer(config, Computation("float32", lora=LoraSection(r=4)))
    phases = tracer._run(tracer.layers, PAIRS)
    assert tracer(PAIRS).total == pytest.approx(max(phase.total for phase in phases), rel=0.02)


@pytest.mark.parametrize("lora", [None, LoraSection(r=4)], ids=["full weights", "lora"])
@pytest.mark.parametrize("bias", [False, True])
def test_skipped_tiles_of_the_head_do_not_change_the_peak(
    lora: LoraSection | None, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PACKED["phi" if bias else "gemma2"]()
    config.vocab_size = 6 * 4096 + 100
    pairs = [PairSize(200, 1800, 1900)]  # four blocks of rows, seven tiles of the vocabulary

    def traced() -> Activations:
        return MemoryTracer(config, Computation("float32", attention="eager", lora=lora))(pairs)

    few = traced()
    monkeypatch.setattr("orpo_cli.training.memory_trace._few_tiles", nullcontext)
    # A few bytes less or more: a scalar of the last tile that is freed earlier or later.
    assert vars(few) == pytest.approx(vars(traced()), abs=64)


@pytest.mark.parametrize("vocab_size", [400, 49_152, 262_144, 10_000_000])
def test_the_estimate_counts_the_pairs_of_the_parity_check(vocab_size: int) -> None:
    long = [TokenPair("", *(torch.arange(1000) + shift for shift in range(3)))] * 3
    sizes = [
        PairSize(len(pair.prompt), len(pair.chosen), len(pair.rejected))
        for pair in select_check_pairs(long, vocab_size)
    ]
    assert sizes == checked_pairs(vocab_size, [PairSize(1000, 1000, 1000)] * 3)


def test_a_4_bit_model_is_traced_with_float32_hidden_states() -> None:
    config, how = PACKED["llama"](), {"autocast": "bfloat16", "lora": LoraSection(r=4)}
    config.num_hidden_layers = 6
    tracer = MemoryTracer(config, Computation("bfloat16", upcast_norms=True, **how))
    assert tracer(PAIRS).layers > MemoryTracer(config, Computation("bfloat16", **how))(PAIRS).layers
    phases = tracer._run(tracer.layers, PAIRS)
    assert tracer(PAIRS).total == pytest.approx(max(phase.total for phase in phases), rel=0.02)


def test_a_model_without_sdpa_is_traced_with_any_attention_setting() -> None:
    """The fast path brings its own."""
    config = PACKED["gemma2"]()
    eager, other = (MemoryTracer(config, Computation("float32", attention=name))(PAIRS) for name in ("eager", "sdpa"))
    assert eager == other


def test_layers_below_the_first_adapter_keep_nothing() -> None:
    config = PACKED["llama"]()
    config.num_hidden_layers = 6
    all_layers, half = (
        MemoryTracer(config, Computation("float32", lora=LoraSection(r=4, layers_to_transform=layers)))(PAIRS).layers
        for layers in (None, [3, 4, 5])
    )
    assert half == pytest.approx(all_layers / 2, rel=0.2)


def test_offloaded_layer_inputs_and_checkpointed_layers_are_counted() -> None:
    config = PACKED["llama"]()
    config.num_hidden_layers = 24

    def of(**how: Any) -> Activations:
        return MemoryTracer(config, Computation("float32", lora=LoraSection(r=4), **how))(PAIRS)

    plain, all_layers, every_second, offloaded = (
        of(), of(checkpointing=True), of(checkpointing=True, every_n_layers=2), of(checkpointing=True, offload=True)
    )  # fmt: skip
    assert every_second.kept == pytest.approx((plain.kept + all_layers.kept) / 2, rel=0.1)
    tokens = sum(pair.packed for pair in PAIRS)
    inputs = config.num_hidden_layers * tokens * config.hidden_size * 4
    assert all_layers.kept - offloaded.kept == pytest.approx(inputs, rel=0.2)
    assert offloaded.total < 0.5 * all_layers.total


@pytest.mark.parametrize("checkpointing", [False, True])
def test_twice_the_tokens_of_a_pair_take_twice_the_memory(checkpointing: bool) -> None:
    tracer = MemoryTracer(PACKED["llama"](), Computation("float32", lora=LoraSection(r=4), checkpointing=checkpointing))
    short, long = (tracer([PairSize(tokens // 2, tokens, tokens)]).total for tokens in (4096, 8192))
    assert long < 2.2 * short


def test_checkpointing_and_half_precision_keep_less_than_the_default_and_trls_path_more() -> None:
    config = PACKED["llama"]()
    config.num_hidden_layers = 24
    lora = LoraSection(r=4)

    def of(**how: Any) -> Activations:
        return MemoryTracer(config, Computation(**{"dtype": "float32", "lora": lora, **how}))(PAIRS)

    plain, checkpointed, half, trls = of(), of(checkpointing=True), of(lora=None, dtype="bfloat16"), of(fast_path=False)
    assert checkpointed.layers < 0.6 * plain.layers
    assert half.layers < 0.6 * of(lora=None).layers
    assert trls.layers > plain.layers
