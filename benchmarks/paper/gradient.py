"""The gradient of the odds ratio term as the paper factors it (section 4.3, Eq. 8 to 10), against the packed step's gradient.

With P the probability per token and odds = P / (1 - P), the paper writes the gradient as delta * h:

    delta = 1 / (1 + odds(chosen) / odds(rejected)),
    h = grad log P(chosen) / (1 - P(chosen)) - grad log P(rejected) / (1 - P(rejected)).

delta * h is the direction that raises the log odds ratio, so the gradient of the loss term is minus that. Both sides are
computed in float64: the left one by the engine with ``nll_weight`` 0 and ``beta`` 1, the right one from plain forward passes
without packing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAIRS = 4


def check_gradient(base: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each pair: delta, both factors 1 / (1 - P), and the relative difference of the two gradients."""
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    from orpo_cli.training.engine.packing import token_pair

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model: Any = get_peft_model(copy.deepcopy(base), config).double().eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, where the gradient of A would be zero, too
            torch.nn.init.normal_(parameter, std=0.01)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "pairs": [_check_pair(model, trained, token_pair(row)) for row in rows],
        "parameters": sum(each.numel() for each in trained),
    }


def _check_pair(model: Any, trained: list[Any], pair: Any) -> dict[str, float]:
    import torch

    (chosen, chosen_gradient), (rejected, rejected_gradient) = (
        _log_prob_and_gradient(model, trained, pair.prompt, completion) for completion in (pair.chosen, pair.rejected)
    )
    p_chosen, p_rejected = chosen.exp(), rejected.exp()
    odds_ratio = (p_chosen / (1 - p_chosen)) / (p_rejected / (1 - p_rejected))
    delta = 1 / (1 + odds_ratio)
    h = chosen_gradient / (1 - p_chosen) - rejected_gradient / (1 - p_rejected)
    gradient = _engine_gradient(model, trained, pair)
    difference = (gradient + delta * h).norm() / gradient.norm()
    return {
        "delta": delta.item(),
        "log_odds_ratio": torch.log(odds_ratio).item(),
        "factor_chosen": (1 / (1 - p_chosen)).item(),
        "factor_rejected": (1 / (1 - p_rejected)).item(),
        "gradient_norm": gradient.norm().item(),
        "relative_difference": difference.item(),
    }


def _log_prob_and_gradient(model: Any, trained: list[Any], prompt: Any, completion: Any) -> tuple[Any, Any]:
    """The mean log-probability of the completion's tokens, and its gradient as one vector."""
    import torch

    sequence = torch.cat((prompt, completion)).to(torch.int64)
    logits = model(input_ids=sequence[None]).logits[0, len(prompt) - 1 : -1]
    log_prob = logits.log_softmax(-1).gather(1, sequence[len(prompt) :, None]).mean()
    return log_prob.detach(), _flat(torch.autograd.grad(log_prob, trained))


def _engine_gradient(model: Any, trained: list[Any], pair: Any) -> Any:
    import torch

    from orpo_cli.training.engine.packed_step import Engine

    engine = Engine(model, torch.device("cpu"), beta=1.0, nll_weight=0.0, loss_on_prompt=True, max_tokens=100_000)
    engine.start_step([pair])
    (batch,) = engine.micro_batches([pair])
    with engine.patched_model(batch):
        return _flat(torch.autograd.grad(engine.loss_share(model, batch), trained))


def _flat(gradients: Any) -> Any:
    import torch

    return torch.cat([each.flatten() for each in gradients])
