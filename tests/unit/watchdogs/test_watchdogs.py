"""Watchdogs over recorded metrics of real trainings: each finds the training that was made for it, and a healthy one has no finding.

``support/watchdog_runs.py`` trains and records these runs.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from orpo_cli.recipe.explanations import read_explanation
from orpo_cli.recipe.schema.watchdogs import WatchdogSettings
from orpo_cli.watchdogs.metric_history import Setup
from orpo_cli.watchdogs.watchdogs import Finding, Watchdogs, check

RECORDED = Path(__file__).parent / "recorded"
CODES = [name.replace("_", "-") for name in WatchdogSettings.model_fields]
RECORD_OF = {"accuracy-unchanged": "odds-ratio-negligible"}  # the same training shows both
Line = dict[str, Any]


def record(code: str) -> tuple[list[Line], dict[str, Any]]:
    """The lines and the plan of the recorded training of a watchdog."""
    document = json.loads((RECORDED / f"{RECORD_OF.get(code, code)}.json").read_text())
    return document["lines"], document["plan"]


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def steady(count: int, start: int = 1, **values: float) -> list[Line]:
    return [{"kind": "train", "step": step, "loss": 2.0, **values} for step in range(start, start + count)]


@pytest.mark.parametrize("code", CODES)
def test_each_watchdog_finds_its_training_once(code: str) -> None:
    found = [finding for finding in check(*record(code)) if finding.code == code]
    assert len(found) == 1
    assert found[0].step > 0


@pytest.mark.parametrize("code", CODES)
def test_the_page_of_a_watchdog_shows_the_message_of_its_training(code: str) -> None:
    (found,) = (finding for finding in check(*record(code)) if finding.code == code)
    name = code.replace("-", "_")
    assert read_explanation(code).message == f"training.watchdogs.{name}: warning: {found.message} [{code}]"


def test_the_quickstart_has_no_finding() -> None:
    assert check(*record("quickstart")) == []


def test_a_run_of_an_older_version_is_judged_by_the_same_rules() -> None:
    """Without kinds, events, pairs and tokens; the plan knows the pairs of a step."""
    kept = {"loss", "nll_loss", "log_odds_ratio", "rewards/accuracies", "logps/chosen", "logps/rejected", "grad_norm"}
    for code in ("overfitting", "loss-spike", "gradient-clipped", "evaluation-worse"):
        lines, plan = record(code)
        old = [
            {
                name: value
                for name, value in line.items()
                if name in kept | {"step", "epoch"} or name.startswith("eval_")
            }
            for line in lines
            if line.get("kind") != "event" and line["step"] > 0
        ]
        assert code in codes(check(old, plan)), code


@pytest.mark.parametrize("code", [code for code in CODES if code not in ("throughput-halved",)])
def test_lines_of_several_steps_have_the_same_finding(code: str) -> None:
    """As with ``logging_steps: 2``."""
    lines, plan = record(code)
    means: list[Line] = []
    waiting: list[Line] = []
    for line in lines:
        if line.get("kind") != "train":
            means.append(line)
            continue
        waiting.append(line)
        if len(waiting) == 2:
            names = waiting[1].keys() - {"kind", "step", "epoch", "pairs", "tokens"}
            means.append({**waiting[1], **{name: sum(each[name] for each in waiting) / 2 for name in names}})
            waiting = []
    assert codes(check(means, plan)).count(code) == 1


@pytest.mark.parametrize("code", CODES)
def test_damaged_lines_neither_raise_nor_hide_a_finding(code: str) -> None:
    lines, plan = record(code)
    odd: list[Line] = [
        {},
        {"step": 3},
        {"kind": "train"},
        {"kind": "event", "event": "watchdog", "code": code},
        {"loss": "x", "step": 1},
    ]
    dirty = [each for line in lines for each in (line, {**line, "kind": "other"})] + odd
    assert codes(check(dirty, plan)).count(code) == 1
    missing = [{**line, "loss": math.nan, "eval_loss": None, "logps/chosen": math.inf} for line in lines]
    check(missing, plan)
    check(lines, {})
    check(lines, {"training": [], "launch": {"pairs_per_step": {"value": "many"}}})


def test_steps_that_are_in_a_file_twice_count_once() -> None:
    """As in a file to which a resumed run of an older version has appended."""
    lines, plan = record("quickstart")
    middle = len(lines) // 2
    assert check([*lines[:middle], *lines[middle // 2 :]], plan) == []


def test_a_resumed_run_does_not_report_again_what_an_earlier_attempt_has_reported() -> None:
    lines, plan = record("gradient-clipped")
    (found,) = check(lines, plan)
    resumed = Watchdogs(plan)
    position = next(index for index, line in enumerate(lines) if line["step"] == found.step) + 1
    for line in lines[:position]:
        resumed.add(line)
    assert [finding for line in lines[position:] for finding in resumed.add(line)] == []


def test_a_finding_is_reported_again_when_it_has_gone_away_and_comes_back() -> None:
    spike, calm = {"loss": 9.0}, {"loss": 2.0}
    once = [*steady(30, **calm), *steady(8, 31, **spike), *steady(15, 39, **calm), *steady(8, 54, **spike)]
    assert codes(check(once, {})) == ["loss-spike"]
    twice = [*steady(30, **calm), *steady(8, 31, **spike), *steady(100, 39, **calm), *steady(8, 139, **spike)]
    assert codes(check(twice, {})) == ["loss-spike", "loss-spike"]


def test_one_hard_batch_is_no_spike() -> None:
    assert check([*steady(30), *steady(4, 31, loss=9.0), *steady(30, 35)], {}) == []


def test_few_held_out_pairs_are_no_evidence() -> None:
    for code in ("chosen-likelihood-falls", "odds-ratio-negligible", "accuracy-unchanged"):
        lines, plan = record(code)
        few = [{**line, "eval_pairs": 20} if line.get("kind") == "eval" else line for line in lines]
        assert code not in codes(check([line for line in few if line.get("kind") == "eval"], plan)), code
    lines, plan = record("length-bias")
    few = [{**line, "eval_pairs_chosen_shorter": 10} if line.get("kind") == "eval" else line for line in lines]
    assert "length-bias" not in codes(check(few, plan))


def test_an_accuracy_that_has_risen_beyond_its_error_is_no_finding() -> None:
    def run(now: float) -> list[str]:
        base = {"kind": "eval", "step": 0, "eval_loss": 3.0, "eval_rewards/accuracies": 0.5, "eval_pairs": 200}
        evaluation = {**base, "step": 60, "eval_loss": 2.0, "eval_rewards/accuracies": now}
        return codes(check([base, *steady(60, epoch=0.6), evaluation], {"training": {"max_steps": 100}}))

    assert run(0.52) == ["accuracy-unchanged"]  # the standard error is 0.05
    assert run(0.56) == []


def test_without_held_out_pairs_the_first_and_the_last_steps_are_compared() -> None:
    def run(fall: float, noise: float) -> list[str]:
        lines = [
            {
                "kind": "train", "step": step, "loss": 2.0, "logps/chosen": -1 - fall * step / 200 + noise * (step % 2),
                "logps/rejected": -2 - 3 * step / 200,
            }
            for step in range(1, 201)
        ]  # fmt: skip
        return codes(check(lines, {"training": {"max_steps": 200}}))

    assert run(0.5, 0.1) == ["chosen-likelihood-falls"]
    assert run(0.05, 0.1) == []
    assert run(0.5, 2.0) == []  # within the noise of batches


def test_an_optimizer_without_clipping_is_not_judged_by_its_gradient() -> None:
    lines, plan = record("gradient-clipped")
    plan["training"]["max_grad_norm"] = 0.0
    assert check(lines, plan) == []


def test_a_new_attempt_starts_a_new_comparison_of_throughput() -> None:
    def run(tokens: int) -> list[Line]:
        lines = [*steady(40, tokens_per_second=1000.0), *steady(40, 41, tokens_per_second=400.0)]
        return [{**line, "tokens": line["step"] * tokens} for line in lines]

    slow = run(2000)
    assert check([*slow[:40], {"kind": "event", "event": "attempt", "step": 40}, *slow[40:]], {}) == []
    assert codes(check(slow, {})) == ["throughput-halved"]
    assert check(run(200), {}) == []  # ten lines of half a second


def test_settings_are_read_from_plain_values_and_from_plan_json() -> None:
    plain = {"training": {"beta": 0.5, "max_steps": 10}, "launch": {"pairs_per_step": 32}}
    with_reasons = {
        section: {name: {"value": value, "origin": "recipe", "reason": ""} for name, value in values.items()}
        for section, values in plain.items()
    }
    assert Setup.of(plain) == Setup.of(with_reasons) == Setup(beta=0.5, max_steps=10, pairs_per_step=32)
