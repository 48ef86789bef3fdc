"""Page docs/paper.md and its figures, from the finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks.paired import describe_machine
from benchmarks.paper import gradient
from benchmarks.paper.charts import lambda_panels, likelihood_panels
from benchmarks.paper.claims import Campaign, accuracy
from benchmarks.paper.comparisons import (
    ACCURACY_CLAIMS,
    LABELS,
    LAMBDA_CLAIMS,
    LAMBDAS,
    LIKELIHOOD_CLAIMS,
    QUANTITIES,
    claim_rows,
    table,
)
from benchmarks.paper.runs import CONDITIONS, Results, Run
from benchmarks.paper.sections import (
    accuracies,
    costs_section,
    gradients,
    lambdas,
    likelihoods,
    median_costs,
    stages,
    terms,
)
from orpo_cli.report.svg_charts import render_image

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
        for name, panels in (("sft-and-orpo", likelihood_panels(campaign)), ("lambda", lambda_panels(campaign))):
            (images / f"paper-{campaign.pairs.name}-{name}.svg").write_text(
                render_image(panels, width=400, height=240), encoding="utf-8"
            )
    parts = [
        INTRODUCTION.format(
            date=date.today().isoformat(), machine=describe_machine(), files=_files(campaigns), seeds=_seeds(campaigns)
        ),
        _summary(campaigns, results),
        *(_results_table(each) for each in campaigns),
        likelihoods(campaigns), lambdas(campaigns), accuracies(campaigns), costs_section(results, note), gradients(results), stages(campaigns),
        terms(campaigns), LIMITS,
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
        verdicts = [row[-1].strip("*") for row in claim_rows(campaigns, claims)]
        counts = {each: verdicts.count(each) for each in ("as in the paper", "not decided", "not as in the paper")}
        rows.append([title, "; ".join(f"{count} × {name}" for name, count in counts.items() if count)])
    costs = median_costs(results)
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
    return "## Summary\n\n" + table(("claim", "comparisons"), rows)


def _results_table(campaign: Campaign) -> str:
    rows = []
    for condition in ("base", *CONDITIONS):
        if condition == "base" and ("base", 0) not in campaign.records:
            continue
        estimates = [campaign.estimate(quantity, condition) for quantity in QUANTITIES.values()]
        if None not in estimates:
            rows.append([LABELS[condition], *(each.text() for each in estimates if each is not None)])
    return f"### {campaign.pairs.name}: held-out pairs\n\n" + table(("condition", *QUANTITIES), rows)
