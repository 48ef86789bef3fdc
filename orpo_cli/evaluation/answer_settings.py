"""Settings of generated answers: everything that decides them, and where they were generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
import xxhash

from orpo_cli import __version__
from orpo_cli.evaluation.eval_target import EvalTarget
from orpo_cli.evaluation.generation import SamplingParams
from orpo_cli.evaluation.prompts import Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

VALUES_OF_A_TENSOR = 256  # that the digest of the weights reads: training changes almost every value


def deciding_settings(
    target: EvalTarget,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    stops: list[int],
    batches: list[list[int]],
) -> dict[str, Any]:
    """What decides the answers, JSON-ready. A continued generation must have the same."""
    decoding: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        decoding |= {"top_p": sampling.top_p, "seed": sampling.seed}
    return {
        "backend": "transformers",
        "weights": weights_digest(target.model),
        "dtype": str(target.model.dtype).removeprefix("torch."),
        "decoding": {
            **decoding,
            "stop_token_ids": stops,
            "stop_tokens": target.tokenizer.convert_ids_to_tokens(stops),
        },
        "prompts": {"count": len(prompts), "digest": prompts_digest(prompts)},
        "chat_template": None if prompts and prompts[0].messages is None else _digest(target.tokenizer.chat_template),
        "batches": {"count": len(batches), "digest": _digest(batches), "largest": max(map(len, batches), default=0)},
    }


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Digest of the prompts' token ids, in their order."""
    digest = xxhash.xxh3_128()
    for prompt in prompts:
        digest.update(json.dumps(prompt.input_ids).encode())
    return digest.hexdigest()


def weights_digest(model: PreTrainedModel | PeftModel) -> str:
    """Digest of some values of every tensor: it tells models apart without reading all of their weights."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta":  # offloaded to the disk
            values = weight.detach().reshape(-1)[:: max(1, weight.numel() // VALUES_OF_A_TENSOR)]
            digest.update(values.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def environment(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Versions and device: they change answers by rounding at most."""
    device = model.device
    return {
        "orpo_cli": __version__,
        **{name: version(name) for name in ("torch", "transformers", "peft")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _digest(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value).encode())
