"""Paired differences of the paper's claims, the order of the runs, kept results, and the page of an unfinished campaign."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.paper import claims, cost, gradient, page
from benchmarks.paper.__main__ import all_runs
from benchmarks.paper.bootstrap import bootstrap_interval
from benchmarks.paper.claims import Campaign, accuracy, chosen, margin, rejected
from benchmarks.paper.runs import CONDITIONS, CURVES, PairFile, Results, Run
from orpo_cli.statistics import mean_interval

PAIRS = PairFile("quickstart", pairs=16, held_out=12)
SHIFT = {
    "base": (0.0, 0.0),
    "sft": (0.4, 0.2),
    "orpo-0.1": (0.4, 0.1),
    "orpo-0.5": (0.3, -0.2),
    "orpo-1.0": (0.2, -0.6),
}


def evaluation(condition: str, seed: int) -> dict[str, Any]:
    """Scores that differ from those of the base by a known amount on the mean."""
    up, down = SHIFT.get(condition, (0.5, -0.7))
    spread = [0.02 * ((at + seed) % 3 - 1) for at in range(PAIRS.held_out)]
    first = [-3.0 + 0.1 * (at % 4) for at in range(PAIRS.held_out)]
    second = [-3.1 + 0.1 * (at % 5) for at in range(PAIRS.held_out)]
    return {
        "step": 0 if condition == "base" else 2,
        "chosen": [value + up + noise for value, noise in zip(first, spread, strict=True)],
        "rejected": [value + down - noise for value, noise in zip(second, spread, strict=True)],
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two seeds, of which the second has no run after SFT."""
    kept = Results(tmp_path / "results")
    for run in all_runs([PAIRS], 2):
        if run.condition in ("sft-then-orpo", "odds-ratio") and run.seed == 2:
            continue
        curves = {name: [-1.0, -0.5] for name in CURVES}
        kept.write(run.name, run.settings(), {"evaluations": [evaluation(run.condition, run.seed)], "curves": curves})
    return kept


def test_differences_are_paired_and_means_over_seeds(results: Results) -> None:
    campaign = Campaign.read(PAIRS, all_runs([PAIRS], 2), results)
    for quantity, index in ((chosen, 0), (rejected, 1)):
        found = campaign.difference(quantity, "sft", "base")
        assert found is not None
        assert found.value == pytest.approx(SHIFT["sft"][index], abs=1e-9)
        assert found.interval is not None
        assert found.interval[0] <= found.value <= found.interval[1]
        assert len(found.by_seed) == 2
    assert campaign.seeds("sft", "sft-then-orpo") == [1]
    expected = fmean(accuracy(evaluation("sft", 1)) + accuracy(evaluation("sft", 2)))
    estimate = campaign.estimate(accuracy, "sft")
    assert estimate is not None
    assert estimate.value == pytest.approx(expected)
    won = [
        (a, b)
        for a, b in zip(accuracy(evaluation("orpo-1.0", 1)), accuracy(evaluation("sft", 1)), strict=True)
        if a != b
    ]
    assert campaign.mcnemar("orpo-1.0", "sft")[0] == pytest.approx(min(1.0, 2 * 0.5 ** len(won)))


def test_a_verdict_needs_an_interval_on_one_side_of_zero() -> None:
    assert claims.Estimate(0.1, (0.05, 0.2), ()).sign == 1
    assert claims.Estimate(-0.1, (-0.2, -0.05), ()).sign == -1
    assert claims.Estimate(0.1, (-0.05, 0.2), ()).sign == 0
    assert claims.Estimate(0.1, None, ()).sign == 0


def test_results_with_other_settings_count_as_missing(results: Results) -> None:
    run = Run(PAIRS, "sft", 1)
    assert results.read(run.name, run.settings()) is not None
    assert results.read(run.name, {**run.settings(), "learning_rate": 1.0}) is None


def test_runs_of_a_seed_are_complete_before_the_next_one_begins() -> None:
    runs = all_runs([PAIRS, PairFile("other", "other.jsonl")], 2)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for number, run in enumerate(runs):
        if run.condition == "sft-then-orpo":  # needs the adapter of SFT
            assert Run(run.pairs, "sft", run.seed) in runs[:number]
    assert {run.condition for run in runs if not run.pairs.path} == {"base", *CONDITIONS}


def test_the_page_shows_claims_with_intervals(results: Results, tmp_path: Path) -> None:
    figures = dict.fromkeys(("seconds_per_pair", "peak_gb", "held_gb", "sequences_per_pair", "tokens_per_pair"), 2.0)
    for side in cost.SIDES:
        results.write(f"cost-{side}-1", {"pairs": cost.PAIRS, "steps": cost.STEPS}, figures)
    names = ("delta", "log_odds_ratio", "factor_chosen", "factor_rejected", "gradient_norm", "relative_difference")
    found = {"pairs": [dict.fromkeys(names, 0.5)], "parameters": 10}
    results.write("gradient", {"pairs": gradient.PAIRS}, found)
    page.write(tmp_path / "docs", all_runs([PAIRS], 2), results)
    text = (tmp_path / "docs" / "paper.md").read_text(encoding="utf-8")
    assert "Seeds: 2 for quickstart." in text
    rows = [line for line in text.splitlines() if line.startswith("| quickstart | SFT raises rejected, too | +0.2")]
    assert len(rows) == 1
    assert rows[0].endswith("**as in the paper** |")
    assert "| quickstart | chosen: λ 1.0 against 0.5 | -0.1" in text
    for image in ("sft-and-orpo", "lambda"):
        assert f"images/paper-quickstart-{image}.svg" in text
        assert (tmp_path / "docs" / "images" / f"paper-quickstart-{image}.svg").is_file()
    assert margin(evaluation("base", 1))


def test_bootstrap_is_near_the_interval_of_students_t_for_many_values_and_repeatable() -> None:
    generator = random.Random(1)
    values = [generator.gauss(0.3, 2.0) for _ in range(2000)]
    interval = bootstrap_interval(values)
    assert interval == bootstrap_interval(values)
    assert interval != bootstrap_interval(values, seed=1)
    assert interval == pytest.approx(mean_interval(values), abs=0.01)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    generator = random.Random(2)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval([generator.gauss(1.0, 1.0) for _ in range(40)], resamples=1000) or (0.0, 0.0)
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_bootstrap_of_equal_values_has_no_width_and_needs_two_values() -> None:
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0.5]) is None


def test_bootstrap_of_many_values_is_computed_in_blocks() -> None:
    values = [float(index % 7) for index in range(30_000)]
    low, high = bootstrap_interval(values, resamples=100) or (0.0, 0.0)
    assert low < sum(values) / len(values) < high
