"""Sections of docs/paper.md, one of each claim."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.paper import cost, gradient
from benchmarks.paper.claims import Campaign, chosen
from benchmarks.paper.comparisons import (
    ACCURACY_CLAIMS,
    LABELS,
    LAMBDA_CLAIMS,
    LAMBDAS,
    LIKELIHOOD_CLAIMS,
    QUANTITIES,
    by_seed,
    claims_table,
    table,
)
from benchmarks.paper.runs import Results


def likelihoods(campaigns: list[Campaign]) -> str:
    images = "\n\n".join(
        f"![Log-probabilities of chosen and rejected completions, {each.pairs.name}](images/paper-{each.pairs.name}-sft-and-orpo.svg)"
        for each in campaigns
    )
    return f"""## (a) SFT raises rejected completions, too

Figures 3 and 7 of the paper: SFT on the chosen completions alone also raises the log-probability of the rejected completions, because
both answer the same prompt in the same language. The odds ratio term of ORPO lowers the rejected ones against SFT.

{images}

Pale lines: the pairs of each training step, before the model was trained on them; means over the seeds and 4 steps. Dots with
intervals: held-out pairs.

{claims_table(campaigns, LIKELIHOOD_CLAIMS)}
"""


def lambdas(campaigns: list[Campaign]) -> str:
    images = "\n\n".join(
        f"![Margin and log-probability of chosen by lambda, {each.pairs.name}](images/paper-{each.pairs.name}-lambda.svg)"
        for each in campaigns
    )
    return f"""## (b) The weight of the odds ratio term

The paper compares several values of λ (an ablation). With a larger λ, the margin between chosen and rejected completions is
larger, and the log-probability of the chosen completions is lower than with a smaller λ.

{images}

{claims_table(campaigns, LAMBDA_CLAIMS)}

{_chosen_does_not_pay(campaigns)}
"""


def _chosen_does_not_pay(campaigns: list[Campaign]) -> str:
    """The reason, where the likelihood of chosen completions is higher with a larger weight."""
    found = [
        each.pairs.name
        for each in campaigns
        if (estimate := each.difference(chosen, "orpo-1.0", "orpo-0.1")) and estimate.sign > 0
    ]
    if not found:
        return ""
    return (
        f"Here a larger λ does not make the chosen completions less likely, but more likely ({', '.join(found)}). A reason can be that the "
        "odds ratio term itself makes them more likely: see the gradient in (e). This page trains for one pass over few pairs, the paper "
        "for up to ten epochs."
    )


def accuracies(campaigns: list[Campaign]) -> str:
    rows = []
    for campaign in campaigns:
        for condition in LAMBDAS:
            values = campaign.mcnemar(condition, "sft")
            if values:
                rows.append(
                    [
                        campaign.pairs.name,
                        f"{LABELS[condition]} against SFT",
                        ", ".join(f"{each:.2g}" for each in values),
                    ]
                )
    return f"""## (c) Preference accuracy against SFT

{claims_table(campaigns, ACCURACY_CLAIMS)}

The exact McNemar test compares two models on the same pairs. It looks only at the pairs that exactly one of the two models prefers
rightly. Its p-value is the probability of such a difference between two models that are equally accurate. For each seed:

{table(("data", "comparison", "p-values"), rows)}
"""


def median_costs(results: Results) -> dict[str, dict[str, Any]]:
    settings = {"pairs": cost.PAIRS, "steps": cost.STEPS}
    found = {}
    for side in cost.SIDES:
        rounds = [results.read(f"cost-{side}-{number}", settings) for number in range(1, 10)]
        known = [each for each in rounds if each is not None]
        if known:
            names = ("seconds_per_pair", "peak_gb", "held_gb", "sequences_per_pair", "tokens_per_pair")
            found[side] = {name: median(each[name] for each in known) for name in names}
            found[side] |= {"rounds": len(known), "range": [each["seconds_per_pair"] for each in known]}
    return found


def costs_section(results: Results, note: str) -> str:
    found = median_costs(results)
    if not found:
        return ""
    rows = [
        [
            cost.SIDES[side], _sequences(side, each), f"{each['tokens_per_pair']:.0f}", f"{each['seconds_per_pair']:.2f}",
            f"{min(each['range']):.2f} to {max(each['range']):.2f}", f"{each['held_gb']:.2f}", f"{each['peak_gb']:.2f}",
        ]
        for side, each in found.items()
    ]  # fmt: skip
    head = (
        "side", "sequences forward per pair", "tokens forward per pair", "s per pair", "range of rounds", "GB before the first step", "GB at the peak",
    )  # fmt: skip
    rounds = max(each["rounds"] for each in found.values())
    return f"""## (d) Cost of a step against DPO

DPO (direct preference optimization) compares the trained model with a frozen copy of it, the reference model. Section 7.3 of the paper: ORPO
needs no reference model. A pair therefore takes two forward passes, where DPO takes four, and one copy of the model less is in memory. All sides train all weights in float32 on the quickstart's pairs, {cost.PAIRS} pairs per step. DPO is TRL's `DPOTrainer` with a
frozen copy as reference model, which computes each pair in every step (TRL can also compute these values once before the training). Medians of
{rounds} round{"s" * (rounds > 1)} of {cost.STEPS - 1} steps; the sides alternate, each in its own process. GB: memory of the process as the operating system counts it.

{table(head, rows)}

orpo-cli computes one packed row of several pairs, in which every prompt is only once. Its number of sequences is therefore not
comparable; its number of tokens is.{note and " " + note}
"""


def _sequences(side: str, figures: dict[str, Any]) -> str:
    return "packed" if side == "packed" else f"{figures['sequences_per_pair']:.0f}"


def gradients(results: Results) -> str:
    found = results.read("gradient", {"pairs": gradient.PAIRS})
    if found is None:
        return ""
    rows = [
        [
            str(number), f"{each['log_odds_ratio']:+.3f}", f"{each['delta']:.3f}", f"{each['factor_chosen']:.3f}",
            f"{each['factor_rejected']:.3f}", f"{each['gradient_norm']:.3f}", f"{each['relative_difference']:.1e}",
        ]
        for number, each in enumerate(found["pairs"], 1)
    ]  # fmt: skip
    head = (
        "pair",
        "log odds ratio",
        "δ",
        "1 / (1 - P) of chosen",
        "1 / (1 - P) of rejected",
        "gradient norm",
        "relative difference",
    )
    return f"""## (e) The two factors of the gradient

The paper writes the gradient of the odds ratio term as a product of two factors, δ · h (Eq. 8 to 10). δ is a number that says how wrong the model
still is about a pair. h is a direction in the space of the weights: it makes the chosen answer $y_w$ more likely and the rejected answer $y_l$
less likely. $P(y \\mid x)$ is the probability per token of answer $y$ to prompt $x$, $\\mathrm{{odds}} = P / (1 - P)$, and ∇ is the gradient with
respect to the weights:

```math
\\delta = \\left(1 + \\frac{{\\mathrm{{odds}}(y_w \\mid x)}}{{\\mathrm{{odds}}(y_l \\mid x)}}\\right)^{{-1}}, \\qquad
h = \\frac{{\\nabla \\log P(y_w \\mid x)}}{{1 - P(y_w \\mid x)}} - \\frac{{\\nabla \\log P(y_l \\mid x)}}{{1 - P(y_l \\mid x)}}
```

δ · h raises the log odds ratio; the gradient of the loss term is its negative. Both were computed in float64 for {found["parameters"]:,} parameters of
an adapter: the gradient of orpo-cli's packed training step with `nll_weight: 0` and `beta: 1`, and δ · h from plain forward passes without packing. The
normalization layers of the model always compute in float32, so the two cannot agree to more digits than in float32.

{table(head, rows)}

δ is close to 1 if the model prefers the rejected answer, and close to 0 if it clearly prefers the chosen one: pairs that the model has learned hardly
change it any more. The factors 1 / (1 - P) are larger for more likely answers.
"""


def stages(campaigns: list[Campaign]) -> str:
    rows = []
    for campaign in campaigns:
        for name, quantity in QUANTITIES.items():
            estimate = campaign.difference(quantity, "sft-then-orpo", "orpo-1.0")
            if estimate is not None:
                result = {0: "no difference found", 1: "higher with the SFT stage", -1: "lower with the SFT stage"}[
                    estimate.sign
                ]
                rows.append([campaign.pairs.name, name, estimate.text(signed=True), by_seed(estimate), result])
    return f"""## (f) ORPO from the base against ORPO after SFT

ORPO with λ 1.0 starts either from the model before training, or from the model after the SFT run of the same seed, whose adapter is merged. Both see the same
pairs; with the SFT stage they are seen twice, which takes twice as long. A difference can therefore come from the second pass alone:
this page does not separate the two.

{table(("data", "held-out pairs", "with SFT stage minus without", "by seed", "result"), rows)}
"""


def terms(campaigns: list[Campaign]) -> str:
    rows = []
    for campaign in campaigns:
        for name, quantity in QUANTITIES.items():
            estimate = campaign.difference(quantity, "odds-ratio", "orpo-1.0")
            if estimate is not None:
                rows.append([campaign.pairs.name, name, estimate.text(signed=True), by_seed(estimate)])
    if not rows:
        return ""
    return f"""## Each term alone

With `training.beta: 0` the loss is the NLL alone (SFT above), with `training.nll_weight: 0` the odds ratio term alone. The odds ratio term alone does not
require that the chosen completions become likely, only that they are more likely than the rejected ones:

{table(("data", "held-out pairs", "odds ratio term alone minus ORPO, λ 1.0", "by seed"), rows)}
"""
