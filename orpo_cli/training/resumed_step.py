"""Step of a resumed run: on another number of processes it has the same pairs, so that the run stays the same up to rounding."""

from __future__ import annotations

import math

from orpo_cli.planning.plan import Plan, Why

PAIRS, ACCUMULATION = "launch.pairs_per_step", "training.gradient_accumulation_steps"
AS_STARTED = "as the run was started"


def keep_pairs_per_step(before: Plan, now: Plan) -> Plan:
    """``now`` with the pairs of a step of the run, where the number of processes alone has changed them.

    A written ``launch.num_processes`` multiplies the pairs of a step, so that the same recipe has other steps on another number.
    """
    pairs, batch = before.launch.pairs_per_step, now.training["per_device_train_batch_size"]
    kept_before = PAIRS in before.why and before.why[PAIRS].reason == AS_STARTED
    other_processes = kept_before or now.launch.num_processes != before.launch.num_processes
    same_batch = batch == before.training["per_device_train_batch_size"]
    multiplied = now.why["launch.num_processes"].origin not in ("decided", "default")
    of_a_process = now.launch.pairs_per_step // (now.launch.num_processes if multiplied else 1)
    if pairs == now.launch.pairs_per_step or not (other_processes and same_batch) or pairs % of_a_process:
        return now
    accumulation = math.ceil(pairs / (batch * now.launch.num_processes))
    reason = f"{pairs} pairs a step, {AS_STARTED}"
    return now.model_copy(
        update={
            "launch": now.launch.model_copy(update={"pairs_per_step": pairs}),
            "training": {**now.training, "gradient_accumulation_steps": accumulation},
            "why": {
                **now.why,
                PAIRS: Why(origin="decided", reason=AS_STARTED),
                ACCUMULATION: Why(origin="decided", reason=reason),
            },
        }
    )


def process_obstacle(before: Plan, now: Plan) -> str | None:
    """The reason why a run cannot continue on the number of processes of ``now``; None if it can."""
    one, other = before.launch.num_processes == 1, now.launch.num_processes == 1
    if one != other and now.training.get("train_sampling_strategy") == "group_by_length":
        return "train_sampling_strategy: group_by_length has another order of pairs in one process than in several"
    return None
