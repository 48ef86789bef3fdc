"""Learning rate of step 1, against the schedules of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

from orpo_cli.recipe.rules.schedule import REQUIRED_ARGUMENTS
from orpo_cli.report.plan_steps import WARMUP_FROM_ZERO


@pytest.mark.parametrize("name", [kind.value for kind in TYPE_TO_SCHEDULER_FUNCTION])
def test_schedules_that_begin_at_zero_are_those_of_transformers(name: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    required = dict.fromkeys(REQUIRED_ARGUMENTS.get(name, ())[-1:], 1)
    get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=20, scheduler_specific_kwargs=required)
    begins_at_zero = optimizer.param_groups[0]["lr"] == 0
    if name == "warmup_stable_decay":  # it depends on its other arguments, such as min_lr_ratio
        assert name not in WARMUP_FROM_ZERO
    else:
        assert begins_at_zero == (name in WARMUP_FROM_ZERO)
