"""Packed step on a CUDA device: FlashAttention, FlexAttention, compiled gates, 4-bit weights.

`pytest -m gpu` on a machine that has one; elsewhere they are left out.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from support.architectures import COMMON
from support.steps import TrlStep, gradients, packed_step, random_pairs, with_adapter
from trl.experimental.utils import peft_module_casting_to_bf16

from orpo_cli.training.engine import packed_attention_cuda
from orpo_cli.training.engine.fused_lora import fused_lora_forwards
from orpo_cli.training.engine.fused_norms_and_gates import fused_norms_and_gates
from orpo_cli.training.engine.lora_groups import LoraGroups

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SIZES: dict[str, Any] = {
    **COMMON, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "mistral-window": lambda: hf.MistralConfig(**SIZES, head_dim=32, sliding_window=40),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, head_dim=32),
    "gemma2": lambda: hf.Gemma2Config(
        **SIZES, head_dim=32, sliding_window=40, query_pre_attn_scalar=32, final_logit_softcapping=4.0,
        attn_logit_softcapping=4.0,
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **SIZES, head_dim=32, sliding_window=40, query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi3": lambda: hf.Phi3Config(**SIZES),
    "gpt-oss": lambda: hf.GptOssConfig(
        **SIZES, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=40,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_products() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch._dynamo.reset()


def model_of(name: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config._attn_implementation = "eager" if name in ("gemma2", "gpt-oss") else "sdpa"
    return with_adapter(hf.AutoModelForCausalLM.from_config(config).to(dtype), True).eval()


def pairs_of(name: str) -> Any:
    return random_pairs(len(name), count=8, longest=150)


def step(model: Any, compute: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loss = compute()
    value = loss[0] if isinstance(loss, tuple) else loss
    if isinstance(value, torch.Tensor):
        value.backward()
    return float(value), {name: each.double().cpu() for name, each in gradients(model).items()}


def error(packed: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert packed.keys() == exact.keys()
    total = sum(float(each.norm()) ** 2 for each in exact.values()) ** 0.5
    return sum(float((packed[name] - each).norm()) ** 2 for name, each in exact.items()) ** 0.5 / total


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_gives_the_gradients_of_the_cpu(name: str) -> None:
    """By FlexAttention, as flash attention has no float32."""
    model, pairs = model_of(name, torch.float32), pairs_of(name)
    loss, exact = step(model, lambda: TrlStep()(model, pairs))
    model.cuda()
    packed = packed_step(model, pairs, budget=700)
    assert packed[0] == pytest.approx(loss, rel=1e-5)
    assert packed[2] > 1  # micro-batches of different lengths
    assert error({key: each.double().cpu() for key, each in gradients(model).items()}, exact) < 2e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_as_exact_as_trls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float32: the error of packed_step is that of TRL's step on the same device at most, give or take."""
    flashed: list[int] = []
    flash = packed_attention_cuda.flash_attention

    def counted(*given: Any) -> torch.Tensor:
        flashed.append(1)
        return flash(*given)

    monkeypatch.setattr(packed_attention_cuda, "flash_attention", counted)
    rounded, pairs = model_of(name, torch.bfloat16), pairs_of(name)
    wide = copy.deepcopy(rounded).float()
    loss, exact = step(wide, lambda: TrlStep()(wide, pairs))
    rounded.cuda()
    trls_loss, trls = step(rounded, lambda: TrlStep()(rounded, pairs))
    packed = packed_step(rounded, pairs, budget=700)[0]
    found = {key: each.double().cpu() for key, each in gradients(rounded).items()}
    assert abs(packed - loss) <= max(2 * abs(trls_loss - loss), 0.01 * abs(loss))
    assert error(found, exact) < max(1.5 * error(trls, exact), 0.02)
    assert bool(flashed) == (name not in ("gemma2", "gpt-oss"))


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model, pairs = model_of("llama", torch.bfloat16).cuda(), pairs_of("llama")
    loss = packed_step(model, pairs)[0]
    plain = gradients(model)
    model.train().get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    assert packed_step(model, pairs)[0] == pytest.approx(loss, rel=1e-6)
    again = gradients(model)
    for name, each in plain.items():
        torch.testing.assert_close(again[name], each, rtol=2e-2, atol=1e-3 * float(each.abs().max()))


def test_autocast_with_float32_adapters() -> None:
    """How `orpo train` runs in bf16: weights in bfloat16, adapters in float32, everything under autocast."""
    model, pairs = model_of("qwen3", torch.bfloat16).cuda(), pairs_of("qwen3")
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data = parameter.data.float()
    wide = copy.deepcopy(model).float()
    loss, exact = step(wide, lambda: TrlStep()(wide, pairs))
    with torch.autocast("cuda", torch.bfloat16):
        trls_loss, trls = step(model, lambda: TrlStep()(model, pairs))
        packed = packed_step(model, pairs)[0]
    found = {key: each.double().cpu() for key, each in gradients(model).items()}
    assert abs(packed - loss) <= max(2 * abs(trls_loss - loss), 0.01 * abs(loss))
    assert error(found, exact) < max(1.5 * error(trls, exact), 0.02)


@pytest.fixture
def device() -> str:
    return "cuda"


def in_4_bits(nested: bool, device: str) -> tuple[Any, Any]:
    """A model whose base is in 4 bits, as trl prepares it for bf16, and the same with dequantized weights in float32 on a CPU."""
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    wide = hf.AutoModelForCausalLM.from_config(
        hf.LlamaConfig(
            **{
                **SIZES,
                "num_hidden_layers": 6,
                "initializer_range": 0.05,
                "num_key_value_heads": 4,
                "intermediate_size": 256,
            }
        )  # sizes that can be joined with double quantization
    )
    rounded = copy.deepcopy(wide).bfloat16()
    kind = {"quant_type": "nf4", "compress_statistics": nested}
    for name, module in list(rounded.model.named_modules()):
        if type(module) is torch.nn.Linear:
            quantized = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, **kind
            )
            weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, **kind).to(device)
            quantized.weight = weight
            parent, _, child = name.rpartition(".")
            setattr(rounded.model.get_submodule(parent), child, quantized)
            exactly = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
            wide.model.get_submodule(name).weight.data = exactly.float().cpu()
    wide.load_state_dict(
        {name: each.float().cpu() for name, each in rounded.state_dict().items() if "proj" not in name}, strict=False
    )
    rounded.is_loaded_in_4bit = True
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(
        prepare_model_for_kbit_training(rounded.to(device), use_gradient_checkpointing=False), lora
    ).eval()
    peft_module_casting_to_bf16(model)
    wide = get_peft_model(wide, lora).eval()
    for name, parameter in wide.named_parameters():
        if "lora_B" in name:
            model.get_parameter(name).data.mul_(0.1)
        if "lora" in name:
            parameter.data = model.get_parameter(name).data.float().cpu()
    return wide, model


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "double quantized"])
def test_a_4_bit_base_is_as_exact_as_trls(nested: bool, device: str) -> None:
    wide, model = in_4_bits(nested, device)
    pairs = pairs_of("llama")
    forwards = list(fused_lora_forwards(model))
    assert len(forwards) == 6 * 7
    groups = set(LoraGroups(model, forwards).groups.values())
    assert sorted(len(group.forwards) for group in groups) == [1] * 12 + [2] * 6 + [3] * 6
    loss, exact = step(wide, lambda: TrlStep()(wide, pairs))
    with torch.autocast(device, torch.bfloat16):
        trls_loss, trls = step(model, lambda: TrlStep()(model, pairs))
        packed = packed_step(model, pairs)[0]
    found = {key: each.double().cpu() for key, each in gradients(model).items()}
    assert abs(packed - loss) <= max(2 * abs(trls_loss - loss), 0.01 * abs(loss))
    assert error(found, exact) < max(1.5 * error(trls, exact), 0.02)


def test_the_first_update_of_an_adapter_is_not_rounded_away(device: str) -> None:
    """Its output is smaller than the spacing of the numbers that it is added to."""
    wide, model = in_4_bits(True, device)
    pairs = pairs_of("llama")

    def ups(each: Any) -> dict[str, torch.Tensor]:
        return {name: parameter.data for name, parameter in each.named_parameters() if "lora_B" in name}

    for up in (*ups(wide).values(), *ups(model).values()):
        up.zero_()
    before, gradient = step(wide, lambda: TrlStep()(wide, pairs))
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        start = packed_step(model, pairs)[0]
    for each in (wide, model):
        for name, up in ups(each).items():
            up.copy_(-1e-4 * gradient[name].sign())
    with torch.no_grad():
        gained = before - float(TrlStep()(wide, pairs)[0])
        with torch.autocast(device, torch.bfloat16):
            packed = start - packed_step(model, pairs)[0]
    assert packed == pytest.approx(gained, rel=0.25)


def test_norms_and_gates_are_fused_on_a_gpu() -> None:
    model = model_of("llama", torch.bfloat16).cuda()
    kinds = [type(module).__name__ for module, _ in fused_norms_and_gates(model.get_base_model())]
    assert (kinds.count("LlamaRMSNorm"), kinds.count("LlamaMLP")) == (5, 2)


def test_rows_of_many_lengths_are_not_recompiled() -> None:
    """FlexAttention is compiled for two lengths at most, then for any; otherwise it falls back to scores of the complete row."""
    model = model_of("llama", torch.float32).cuda()
    for seed in range(3):
        packed_step(model, random_pairs(seed, count=6, longest=150))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seed in range(3, 20):
        packed_step(model, random_pairs(seed, count=4 + seed % 5, longest=150))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
