"""Comparisons of the paper's claims as rows of tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper.claims import Campaign, Estimate, Quantity, accuracy, chosen, margin, rejected

LABELS = {
    "base": "before training", "sft": "SFT", "orpo-0.1": "ORPO, λ 0.1", "orpo-0.5": "ORPO, λ 0.5", "orpo-1.0": "ORPO, λ 1.0",
    "sft-then-orpo": "SFT, then ORPO, λ 1.0", "odds-ratio": "odds ratio term alone",
}  # fmt: skip
LAMBDAS = ("orpo-0.1", "orpo-0.5", "orpo-1.0")
HIGHER, LOWER = 1, -1
QUANTITIES: dict[str, Quantity] = {
    "log p of chosen": chosen, "log p of rejected": rejected, "margin": margin, "accuracy": accuracy,
}  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(each)} |" for each in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def verdict(estimate: Estimate, expected: int) -> str:
    if estimate.sign == 0:
        return "not decided"
    return "**as in the paper**" if estimate.sign == expected else "**not as in the paper**"


def by_seed(estimate: Estimate) -> str:
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


def claim_rows(campaigns: list[Campaign], claims: list[Claim]) -> list[list[str]]:
    rows = []
    for campaign in campaigns:
        for name, quantity, condition, reference, expected in claims:
            estimate = campaign.difference(quantity, condition, reference)
            if estimate is not None:
                cells = [campaign.pairs.name, name, estimate.text(signed=True), by_seed(estimate)]
                rows.append([*cells, verdict(estimate, expected)])
    return rows


def claims_table(campaigns: list[Campaign], claims: list[Claim]) -> str:
    return table(("data", "claim", "difference", "by seed", "result"), claim_rows(campaigns, claims))
