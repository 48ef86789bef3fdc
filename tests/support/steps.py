"""Reference step by trl's own code and the packed step, on the same random pairs."""

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
from support.architectures import VOCAB_SIZE

BETA = 0.3
RTOL = 1e-5


def random_pairs(seed: int, count: int = 5, longest: int = 24) -> list[TokenPair]:
    """Pairs of random lengths; some completions have a common prefix, and one is a prefix of the other."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, VOCAB_SIZE) for _ in range(length)]

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


def related_pairs(seed: int) -> list[TokenPair]:
    """Pairs that begin alike: turns of a conversation with two rejected answers each, and two other pairs.

    Among the sequences are two equal pairs, a completion that is a prefix of another pair's, and one that is a whole prompt.
    """
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, VOCAB_SIZE) for _ in range(length)]

    system, found = ids(7), []
    history = system + ids(4)
    for turn in range(3):
        chosen = ids(draw.randint(3, 9))
        found += [(history, chosen, ids(draw.randint(1, 8))), (history, chosen, chosen[:2] + ids(turn + 1))]
        history = history + chosen + ids(draw.randint(1, 5))
    found += [
        found[3],
        (found[0][0], found[0][1][:2], ids(12)),
        (system, ids(3), history[7:]),
        (system, ids(6), ids(6)),
    ]
    return [
        TokenPair(f"related {number}", *(torch.tensor(each) for each in parts)) for number, parts in enumerate(found)
    ]


class TrlStep:
    """The methods of trl's ORPOTrainer that compute a step, without a trainer."""

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
            for name, value in pad_for_trl(pairs).items()
        }
        return self.get_batch_loss_metrics(model, batch)


def pad_for_trl(pairs: list[TokenPair]) -> dict[str, Any]:
    rows = []
    for _, prompt, chosen, rejected, _ in pairs:
        row = {"prompt_input_ids": prompt.tolist(), "prompt_attention_mask": [1] * len(prompt)}
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            sequence = torch.cat((prompt, answer)).tolist()
            row |= {f"{name}_input_ids": sequence, f"{name}_attention_mask": [1] * len(sequence)}
            row[f"{name}_labels"] = [-100] * len(prompt) + answer.tolist()
        rows.append(row)
    return DPODataCollatorWithPadding(pad_token_id=0)(rows)


def packed_step(
    model: Any, pairs: list[TokenPair], budget: int = 10_000, loss_on_prompt: bool = True, nll_weight: float = 1.0
) -> tuple[float, dict[str, float], int]:
    """Loss, metrics and number of micro-batches; the gradients are in ``model``."""
    accelerator = SimpleNamespace(num_processes=1, device=model.device)
    terms: dict[str, Any] = {"beta": BETA, "loss_on_prompt": loss_on_prompt, "nll_weight": nll_weight}
    engine = Engine(model, accelerator.device, **terms, max_tokens=budget)
    engine.start_step(pairs)
    total, micro_batches = 0.0, engine.micro_batches(pairs)
    for batch in micro_batches:
        batch = batch.to(model.device)
        with engine.patched_model(batch):
            loss = engine.loss_share(model, batch)
            if loss.requires_grad:
                loss.backward()
        total += loss.item()
    return total, engine.metrics(), len(micro_batches)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def assert_gradients_equal(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = RTOL
) -> None:
    assert found.keys() == expected.keys()
    assert found
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((found[name] - gradient).abs().max()) <= tolerance * scale, name


def with_adapter(model: Any, lora: bool, **options: Any) -> Any:
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
