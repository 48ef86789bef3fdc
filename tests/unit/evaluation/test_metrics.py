"""Preference metrics, compared with TRL's loss and known intervals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from orpo_cli.evaluation.metrics import intervals, preference_metrics
from orpo_cli.evaluation.preference_scores import PairScores


def scores_of(chosen: list[float], rejected: list[float]) -> PairScores:
    return PairScores(
        torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64), nll=30.0, nll_tokens=12
    )


def test_metrics_equal_trl_odds_ratio_loss() -> None:
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = [-0.2, -1.5, -3.0, -0.01, -7.0], [-0.9, -1.4, -3.5, -2.0, -0.05]
    trainer = SimpleNamespace(beta=0.25, accelerator=SimpleNamespace(device="cpu"))
    _, chosen_rewards, rejected_rewards, ratio, log_odds = ORPOTrainer.odds_ratio_loss(
        trainer, torch.tensor(chosen), torch.tensor(rejected)
    )
    metrics = preference_metrics(scores_of(chosen, rejected), beta=0.25)
    assert metrics["log_odds_ratio"] == pytest.approx(ratio.item(), abs=1e-5)
    assert metrics["log_odds_chosen"] == pytest.approx(log_odds.item(), abs=1e-5)
    assert metrics["rewards/chosen"] == pytest.approx(chosen_rewards.mean().item(), abs=1e-6)
    assert metrics["rewards/margins"] == pytest.approx((chosen_rewards - rejected_rewards).mean().item(), abs=1e-6)
    assert metrics["rewards/accuracies"] == pytest.approx((chosen_rewards > rejected_rewards).float().mean().item())


def test_a_tie_is_not_a_win() -> None:
    assert preference_metrics(scores_of([-1.0, -1.0], [-1.0, -2.0]), beta=0.1)["rewards/accuracies"] == 0.5


def test_accuracy_is_one_or_zero_where_every_pair_agrees() -> None:
    better, worse = [-1.0, -2.0, -0.5], [-1.1, -4.0, -3.0]
    assert preference_metrics(scores_of(better, worse), beta=0.1)["rewards/accuracies"] == 1.0
    assert preference_metrics(scores_of(worse, better), beta=0.1)["rewards/accuracies"] == 0.0


def test_nll_is_per_token() -> None:
    assert preference_metrics(scores_of([-1.0], [-2.0]), beta=0.1)["nll_loss"] == 2.5


def test_odds_of_a_nearly_certain_completion_are_finite() -> None:
    metrics = preference_metrics(scores_of([-1e-20], [-40.0]), beta=0.1)
    assert metrics["log_odds_chosen"] == pytest.approx(-math.log(1e-20) + 40.0, rel=1e-6)
    assert metrics["log_odds_ratio"] <= 0


def test_margin_intervals_scale_with_beta() -> None:
    scores = scores_of([-1.0, -2.0, -1.5], [-2.0, -2.5, -1.0])
    one, three = (intervals(scores, beta)["rewards/margins"] for beta in (0.1, 0.3))
    assert one is not None
    assert three == pytest.approx([3 * end for end in one])
