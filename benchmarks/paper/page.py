"""Page docs/paper.md and its figures, from the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.paired import describe_machine
from benchmarks.paper import cost, gradient
from benchmarks.paper.claims import Campaign, Estimate, Quantity, accuracy, chosen, margin, rejected
from benchmarks.paper.runs import CONDITIONS, Results, Run
from orpo_cli.report.svg_charts import COLOURS, Panel, Series, render_image

LABELS = {
    "base": "before training", "sft": "SFT", "orpo-0.1": "ORPO, λ 0.1", "orpo-0.5": "ORPO, λ 0.5", "orpo-1.0": "ORPO, λ 1.0",
    "sft-then-orpo": "SFT, then ORPO, λ 1.0", "odds-ratio": "odds ratio term alone",
}  # fmt: skip
LAMBDAS = ("orpo-0.1", "orpo-0.5", "orpo-1.0")
HIGHER, LOWER = 1, -1
QUANTITIES: dict[str, Quantity] = {
    "log p of chosen": chosen, "log p of rejected": rejected, "margin": margin, "accuracy": accuracy,
}  # fmt: skip

INTRODUCTION = """# The paper's claims on a small model

<!-- Written by `python -m benchmarks.paper`; change benchmarks/paper/page.py instead. -->

The ORPO paper (Hong, Lee and Thorne, arXiv 2403.07691) trains models of 125 million to 7 billion parameters on GPUs. This page
checks its claims with a model that every machine can train: SmolLM2-135M-Instruct (GGUF file Q4_1, computed in float32) with a
LoRA adapter, on a CPU. What does not come out as in the paper is listed as plainly as what does. You need not have read the
paper: each term is explained where it is first used, and [Concepts](concepts.md#orpo-in-brief) has the formulas.

```sh
python -m benchmarks.paper                   # the quickstart's pairs
python -m benchmarks.paper pairs.jsonl       # and a preference file of yours, of which short pairs are used
```

The command continues where it was stopped. It writes this page and its figures. This page was written on {date}, with
{machine}.

## How it was measured

{files}

A preference pair is a prompt with two answers: the *chosen* one is preferred to the *rejected* one. Every run uses the recipe of the
[quickstart](reference/recipes.md): LoRA (r 16) on the upper half of the layers, 8 pairs per step, one pass over the pairs. The runs on one data set
have the same pairs, number of steps and learning rate. They differ in the two weights of the loss

```math
L = w \\cdot L_{{\\mathrm{{NLL}}}} + \\lambda \\cdot L_{{\\mathrm{{OR}}}}
```

- $L_{{\\mathrm{{NLL}}}}$ is the negative log-likelihood of the prompt and the chosen answer: it makes them likely. Its weight $w$ is `training.nll_weight`, here 1
  unless another value is given.
- $L_{{\\mathrm{{OR}}}}$ is the odds ratio term: it makes the chosen answer more likely than the rejected one. The paper calls its weight $\\lambda$; a
  recipe calls the same number `training.beta`, as TRL does.
- **SFT** (supervised fine-tuning) is $\\lambda = 0$: the model sees only the chosen answers.

A seed decides the adapter's random weights and the order of the pairs. {seeds}

The values are those of held-out pairs, which the model was not trained on, after the last step:

- *log p of chosen*, *log p of rejected*: the mean of the natural logarithms of the token probabilities of an answer. The unit is the nat.
  A value nearer to 0 is a more likely answer.
- *margin*: log p of the chosen answer minus log p of the rejected one. A larger margin means that the model separates the two
  answers more.
- *accuracy*: the fraction of pairs with a positive margin.
- In square brackets: the 95% interval. Other held-out pairs would give other values; the interval shows in which range. It is computed by
  a bootstrap: the held-out pairs are drawn again, with replacement, many times. Of several seeds, the mean of each pair is used. The interval
  of a difference between two runs comes from the same pairs in both (paired).

"As in the paper" means that the complete interval of the difference is on the paper's side of 0. "Not decided" means that the interval
contains 0: the difference may be chance.
"""

LIMITS = """## What this page cannot show

- One model of 135 million parameters that was already fine-tuned to follow instructions. The paper starts from base models.
- One pass over few pairs, with a LoRA adapter. The paper trains on tens of thousands.
- No judgement of generated answers: accuracy on held-out pairs is not AlpacaEval. For answers, see `orpo benchmark`.
- The page shows many comparisons, each with its own interval. If there were no difference in any of twenty comparisons, one of the twenty
  intervals would still be expected not to contain 0.
"""


def write(docs: Path, runs: Sequence[Run], results: Results, note: str = "") -> None:
    """Write paper.md and its figures into ``docs``. ``note``: about the machine during the measurement of the cost."""
    files = list(dict.fromkeys(run.pairs for run in runs))
    campaigns = [Campaign.read(each, runs, results) for each in files]
    campaigns = [each for each in campaigns if len(each.records) > 1]
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    for campaign in campaigns:
        for name, panels in (("sft-and-orpo", _likelihood_panels(campaign)), ("lambda", _lambda_panels(campaign))):
            (images / f"paper-{campaign.pairs.name}-{name}.svg").write_text(
                render_image(panels, width=400, height=240), encoding="utf-8"
            )
    parts = [
        INTRODUCTION.format(
            date=date.today().isoformat(), machine=describe_machine(), files=_files(campaigns), seeds=_seeds(campaigns)
        ),
        _summary(campaigns, results),
        *(_results_table(each) for each in campaigns),
        _likelihoods(campaigns), _lambdas(campaigns), _accuracies(campaigns), _costs(results, note), _gradients(results), _stages(campaigns),
        _terms(campaigns), LIMITS,
    ]  # fmt: skip
    (docs / "paper.md").write_text("\n".join(part.strip() + "\n" for part in parts if part), encoding="utf-8")
    print(f"{docs / 'paper.md'} is written")


def _files(campaigns: list[Campaign]) -> str:
    lines = []
    for campaign in campaigns:
        pairs = campaign.pairs
        source = "the pairs of the quickstart" if not pairs.path else f"`{Path(pairs.path).name}`"
        lines.append(
            f"- **{pairs.name}**: {source}; {pairs.pairs} pairs for training and {pairs.held_out} held out, sequences of at most "
            f"{pairs.max_length} tokens, learning rate {pairs.learning_rate:g}"
        )
    return "\n".join(lines)


def _seeds(campaigns: list[Campaign]) -> str:
    counts = {each.pairs.name: len(each.seeds("sft", *LAMBDAS)) for each in campaigns}
    return "Seeds: " + ", ".join(f"{count} for {name}" for name, count in counts.items()) + "."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(each)} |" for each in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _verdict(estimate: Estimate, expected: int) -> str:
    if estimate.sign == 0:
        return "not decided"
    return "**as in the paper**" if estimate.sign == expected else "**not as in the paper**"


def _by_seed(estimate: Estimate) -> str:
    return ", ".join(f"{each:+.3f}" for each in estimate.by_seed)


# Each claim: what is compared, and the direction that the paper reports.
Claim = tuple[str, Quantity, str, str, int]
LIKELIHOOD_CLAIMS: list[Claim] = [
    ("SFT raises chosen", chosen, "sft", "base", HIGHER),
    ("SFT raises rejected, too", rejected, "sft", "base", HIGHER),
    *[(f"{LABELS[each]}: rejected lower than after SFT", rejected, each, "sft", LOWER) for each in LAMBDAS],
]
LAMBDA_CLAIMS: list[Claim] = [
    ("margin: λ 0.5 against 0.1", margin, "orpo-0.5", "orpo-0.1", HIGHER),
    ("margin: λ 1.0 against 0.5", margin, "orpo-1.0", "orpo-0.5", HIGHER),
    ("chosen: λ 0.5 against 0.1", chosen, "orpo-0.5", "orpo-0.1", LOWER),
    ("chosen: λ 1.0 against 0.5", chosen, "orpo-1.0", "orpo-0.5", LOWER),
]
ACCURACY_CLAIMS: list[Claim] = [
    (f"accuracy: {LABELS[each]} against SFT", accuracy, each, "sft", HIGHER) for each in LAMBDAS
]


def _claim_rows(campaigns: list[Campaign], claims: list[Claim]) -> list[list[str]]:
    rows = []
    for campaign in campaigns:
        for name, quantity, condition, reference, expected in claims:
            estimate = campaign.difference(quantity, condition, reference)
            if estimate is not None:
                cells = [campaign.pairs.name, name, estimate.text(signed=True), _by_seed(estimate)]
                rows.append([*cells, _verdict(estimate, expected)])
    return rows


def _claims(campaigns: list[Campaign], claims: list[Claim]) -> str:
    return _table(("data", "claim", "difference", "by seed", "result"), _claim_rows(campaigns, claims))


def _summary(campaigns: list[Campaign], results: Results) -> str:
    rows = []
    sections = (
        (
            "(a) SFT alone also makes rejected answers more likely; ORPO makes them less likely than SFT does",
            LIKELIHOOD_CLAIMS[1:],
        ),
        ("(b) a larger λ gives a larger margin, and less likely chosen answers", LAMBDA_CLAIMS),
        ("(c) ORPO is more accurate than SFT on held-out pairs", ACCURACY_CLAIMS),
    )
    for title, claims in sections:
        verdicts = [row[-1].strip("*") for row in _claim_rows(campaigns, claims)]
        counts = {each: verdicts.count(each) for each in ("as in the paper", "not decided", "not as in the paper")}
        rows.append([title, "; ".join(f"{count} × {name}" for name, count in counts.items() if count)])
    costs = _median_costs(results)
    if "dpo" in costs and "orpo" in costs:
        ratio = costs["dpo"]["seconds_per_pair"] / costs["orpo"]["seconds_per_pair"]
        rows.append(
            [
                "(d) ORPO needs two forward passes per pair, DPO four",
                f"{costs['orpo']['sequences_per_pair']:.0f} and {costs['dpo']['sequences_per_pair']:.0f} sequences per pair; a DPO "
                f"step takes {ratio:.2f} times as long",
            ]
        )
    found = results.read("gradient", {"pairs": gradient.PAIRS})
    if found is not None:
        worst = max(each["relative_difference"] for each in found["pairs"])
        rows.append(
            ["(e) the gradient of the odds ratio term is a product δ · h", f"relative difference at most {worst:.0e}"]
        )
    for campaign in campaigns:
        estimate = campaign.difference(accuracy, "sft-then-orpo", "orpo-1.0")
        if estimate is not None:
            rows.append(
                [
                    f"(f) no SFT stage is needed ({campaign.pairs.name})",
                    f"accuracy with it: {estimate.text(signed=True)}",
                ]
            )
    return "## Summary\n\n" + _table(("claim", "comparisons"), rows)


def _results_table(campaign: Campaign) -> str:
    rows = []
    for condition in ("base", *CONDITIONS):
        if condition == "base" and ("base", 0) not in campaign.records:
            continue
        estimates = [campaign.estimate(quantity, condition) for quantity in QUANTITIES.values()]
        if None not in estimates:
            rows.append([LABELS[condition], *(each.text() for each in estimates if each is not None)])
    return f"### {campaign.pairs.name}: held-out pairs\n\n" + _table(("condition", *QUANTITIES), rows)


def _likelihoods(campaigns: list[Campaign]) -> str:
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

{_claims(campaigns, LIKELIHOOD_CLAIMS)}
"""


def _lambdas(campaigns: list[Campaign]) -> str:
    images = "\n\n".join(
        f"![Margin and log-probability of chosen by lambda, {each.pairs.name}](images/paper-{each.pairs.name}-lambda.svg)"
        for each in campaigns
    )
    return f"""## (b) The weight of the odds ratio term

The paper compares several values of λ (an ablation). With a larger λ, the margin between chosen and rejected completions is
larger, and the log-probability of the chosen completions is lower than with a smaller λ.

{images}

{_claims(campaigns, LAMBDA_CLAIMS)}

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


def _accuracies(campaigns: list[Campaign]) -> str:
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

{_claims(campaigns, ACCURACY_CLAIMS)}

The exact McNemar test compares two models on the same pairs. It looks only at the pairs that exactly one of the two models prefers
rightly. Its p-value is the probability of such a difference between two models that are equally accurate. For each seed:

{_table(("data", "comparison", "p-values"), rows)}
"""


def _median_costs(results: Results) -> dict[str, dict[str, Any]]:
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


def _costs(results: Results, note: str) -> str:
    found = _median_costs(results)
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

{_table(head, rows)}

orpo-cli computes one packed row of several pairs, in which every prompt is only once. Its number of sequences is therefore not
comparable; its number of tokens is.{note and " " + note}
"""


def _sequences(side: str, figures: dict[str, Any]) -> str:
    return "packed" if side == "packed" else f"{figures['sequences_per_pair']:.0f}"


def _gradients(results: Results) -> str:
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

{_table(head, rows)}

δ is close to 1 if the model prefers the rejected answer, and close to 0 if it clearly prefers the chosen one: pairs that the model has learned hardly
change it any more. The factors 1 / (1 - P) are larger for more likely answers.
"""


def _stages(campaigns: list[Campaign]) -> str:
    rows = []
    for campaign in campaigns:
        for name, quantity in QUANTITIES.items():
            estimate = campaign.difference(quantity, "sft-then-orpo", "orpo-1.0")
            if estimate is not None:
                result = {0: "no difference found", 1: "higher with the SFT stage", -1: "lower with the SFT stage"}[
                    estimate.sign
                ]
                rows.append([campaign.pairs.name, name, estimate.text(signed=True), _by_seed(estimate), result])
    return f"""## (f) ORPO from the base against ORPO after SFT

ORPO with λ 1.0 starts either from the model before training, or from the model after the SFT run of the same seed, whose adapter is merged. Both see the same
pairs; with the SFT stage they are seen twice, which takes twice as long. A difference can therefore come from the second pass alone:
this page does not separate the two.

{_table(("data", "held-out pairs", "with SFT stage minus without", "by seed", "result"), rows)}
"""


def _terms(campaigns: list[Campaign]) -> str:
    rows = []
    for campaign in campaigns:
        for name, quantity in QUANTITIES.items():
            estimate = campaign.difference(quantity, "odds-ratio", "orpo-1.0")
            if estimate is not None:
                rows.append([campaign.pairs.name, name, estimate.text(signed=True), _by_seed(estimate)])
    if not rows:
        return ""
    return f"""## Each term alone

With `training.beta: 0` the loss is the NLL alone (SFT above), with `training.nll_weight: 0` the odds ratio term alone. The odds ratio term alone does not
require that the chosen completions become likely, only that they are more likely than the rejected ones:

{_table(("data", "held-out pairs", "odds ratio term alone minus ORPO, λ 1.0", "by seed"), rows)}
"""


def _held_out(campaign: Campaign, quantity: Quantity, condition: str, label: str, colour: str) -> Series:
    """The evaluations of a condition as dots with intervals, from the model before training on."""
    points, intervals = [], []
    numbers = range(len(next(record for key, record in campaign.records.items() if key[0] == condition)["evaluations"]))
    for of, number in [("base", 0), *((condition, number) for number in numbers)]:
        if of == "base" and ("base", 0) not in campaign.records:
            continue
        estimate = campaign.estimate(quantity, of, number)
        if estimate is None:
            continue
        step = float(campaign.evaluation(of, campaign.seeds(of)[0], number)["step"])
        points.append((step, estimate.value))
        if estimate.interval is not None:
            intervals.append((step, *estimate.interval))
    return Series(label, colour, points, intervals)


def _likelihood_panels(campaign: Campaign) -> list[Panel]:
    panels = []
    for condition in ("sft", "orpo-1.0"):
        if not campaign.seeds(condition):
            continue
        series = []
        for colour, name, quantity in (
            (COLOURS[0], "chosen", chosen),
            (COLOURS[1], "rejected", rejected),
        ):
            batches = Series(f"{name}, training", colour, campaign.curve(f"logps/{name}", condition), faint=True)
            series += [batches, _held_out(campaign, quantity, condition, f"{name}, held out", colour)]
        panels.append(Panel(f"{LABELS[condition]}: log p per token", series))
    return panels


def _lambda_panels(campaign: Campaign) -> list[Panel]:
    shown = [each for each in ("sft", *LAMBDAS) if campaign.seeds(each)]
    return [
        Panel(
            title,
            [
                _held_out(campaign, quantity, condition, LABELS[condition].replace("ORPO, ", ""), COLOURS[index])
                for index, condition in enumerate(shown)
            ],
        )
        for title, quantity in (("margin, held out", margin), ("log p of chosen, held out", chosen))
    ]
