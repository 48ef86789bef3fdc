"""A step by trl's own code and by ours, on the same random pairs."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.utils import DPODataCollatorWithPadding

from orpo_cli.training.engine.packed_step import Engine
from orpo_cli.training.engine.packing import TokenPair
from support.architectures import WORDS

BETA = 0.3
EXACT = 1e-5


def random_pairs(seed: int, count: int = 5, longest: int = 24) -> list[TokenPair]:
    """Random lengths; the answers of some pairs begin alike, and one is the beginning of the other."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, WORDS) for _ in range(length)]

    pairs = []
    for number in range(count):
        common = ids(draw.choice([0, 0, 1, 4]))
        chosen, rejected = common + ids(draw.randint(1, longest)), common + ids(draw.randint(1, longest))
        if number == 3:
            rejected = chosen + ids(3)
        pairs.append(
            TokenPair(f"row {number}", *(torch.tensor(each) for each in (ids(draw.randint(1, 16)), chosen, rejected)))
        )
    return pairs


class TrlStep:
    """trl's ORPOTrainer without its surroundings: the methods that compute a step, on a model of ours."""

    get_batch_loss_metrics = ORPOTrainer.get_batch_loss_metrics
    concatenated_forward = ORPOTrainer.concatenated_forward
    concatenated_inputs = staticmethod(ORPOTrainer.concatenated_inputs)
    odds_ratio_loss = ORPOTrainer.odds_ratio_loss
    get_batch_logps = staticmethod(ORPOTrainer.get_batch_logps)
    is_encoder_decoder = aux_loss_enabled = False
    padding_value, beta = 0, BETA
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda value: value)

    def __call__(self, model: Any, pairs: list[TokenPair]) -> tuple[torch.Tensor, dict[str, float]]:
        self.accelerator = SimpleNamespace(**vars(self.accelerator) | {"device": model.device})
        batch = {
            name: value.to(model.device) if isinstance(value, torch.Tensor) else value
            for name, value in trl_batch(pairs).items()
        }
        return self.get_batch_loss_metrics(model, batch)


def trl_batch(pairs: list[TokenPair]) -> dict[str, Any]:
    rows = []
    for _, prompt, chosen, rejected in pairs:
        row = {"prompt_input_ids": prompt.tolist(), "prompt_attention_mask": [1] * len(prompt)}
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            whole = torch.cat((prompt, answer)).tolist()
            row |= {f"{name}_input_ids": whole, f"{name}_attention_mask": [1] * len(whole)}
            row[f"{name}_labels"] = [-100] * len(prompt) + answer.tolist()
        rows.append(row)
    return DPODataCollatorWithPadding(pad_token_id=0)(rows)


def ours(
    model: Any, pairs: list[TokenPair], budget: int = 10_000, loss_on_prompt: bool = True
) -> tuple[float, dict[str, float], int]:
    """Loss, metrics and number of micro-batches; the gradients are in ``model``."""
    accelerator = SimpleNamespace(num_processes=1, device=model.device)
    engine = Engine(model, accelerator, beta=BETA, loss_on_prompt=loss_on_prompt, max_tokens=budget)
    engine.start_step(pairs)
    total, parts = 0.0, engine.micro_batches(pairs)
    for part in parts:
        part = part.to(model.device)
        with engine.patched_model(part):
            share = engine.loss_share(model, part)
            if share.requires_grad:
                share.backward()
        total += share.item()
    return total, engine.metrics(), len(parts)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = EXACT) -> None:
    assert mine.keys() == theirs.keys()
    assert mine
    largest = max(float(each.abs().max()) for each in theirs.values())
    for name, gradient in theirs.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((mine[name] - gradient).abs().max()) <= tolerance * scale, name


def adapted(model: Any, lora: bool, **options: Any) -> Any:
    """The model, or the model with an adapter whose B is not zero."""
    if not lora:
        return model
    torch.manual_seed(1)
    settings = {"r": 3, "target_modules": "all-linear", **options}
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).to(model.dtype)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return wrapped
