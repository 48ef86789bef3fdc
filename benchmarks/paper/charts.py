"""Figures of docs/paper.md."""

from __future__ import annotations

from benchmarks.paper.claims import Campaign, Quantity, chosen, margin, rejected
from benchmarks.paper.comparisons import LABELS, LAMBDAS
from orpo_cli.report.svg_charts import COLOURS, Panel, Series


def likelihood_panels(campaign: Campaign) -> list[Panel]:
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


def lambda_panels(campaign: Campaign) -> list[Panel]:
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
