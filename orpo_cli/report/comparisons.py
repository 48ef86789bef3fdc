"""Paired comparisons of a report: each run with its base model, and with the first run, as values and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orpo_cli.report.paired_comparison import compare_runs, compare_with_base
from orpo_cli.report.run_history import RunHistory
from orpo_cli.statistics import PairedComparison

MAX_COMPARED_RUNS = 10


def comparisons_with_base(histories: Sequence[RunHistory], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Each run against its base model on the same held-out pairs; one reason for all runs without scores of their base model.

    At most ``MAX_COMPARED_RUNS``; a last entry counts the others.
    """
    found, without_base = [], []
    for each, label in list(zip(histories, labels, strict=True))[:MAX_COMPARED_RUNS]:
        result = compare_with_base(each)
        if isinstance(result, str):
            without_base.append(label)
        else:
            found.append(_comparison(f"{label} against its base model", "base", label, result))
    if without_base:
        reason = f"Not compared: {'; '.join(without_base)}. orpo eval RUN computes the scores of both models."
        found.append({"title": "Against the base model", "reason": reason})
    if len(histories) > MAX_COMPARED_RUNS:
        found.append(_not_compared("the base model", len(histories), "orpo report RUN compares one."))
    return found


def comparisons_with_first(histories: Sequence[RunHistory], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Each other run against the first one, on the pairs that both held out; the reason where that is not possible.

    At most ``MAX_COMPARED_RUNS``; a last entry counts the others.
    """
    compared = list(zip(histories, labels, strict=True))[:MAX_COMPARED_RUNS]
    found = [
        _comparison(f"{label} against {labels[0]}", labels[0], label, compare_runs(histories[0], each))
        for each, label in compared[1:]
    ]
    if len(histories) > MAX_COMPARED_RUNS:
        found.append(_not_compared(labels[0], len(histories), "orpo report RUN RUN compares two."))
    return found


def _not_compared(other: str, count: int, remedy: str) -> dict[str, Any]:
    """The entry that says how many of ``count`` runs are left out."""
    reason = f"Not compared: {count - MAX_COMPARED_RUNS} of {count} runs. {remedy}"
    return {"title": f"Further runs against {other}", "reason": reason}


def _comparison(title: str, first: str, second: str, result: PairedComparison | str) -> dict[str, Any]:
    if isinstance(result, str):
        return {"title": title, "reason": result}
    low, high = result.margin_interval or (None, None)
    values = {name: value for name, value in vars(result).items() if name != "margin_interval"}
    return {"title": title, "first": first, "second": second, **values, "margin_low": low, "margin_high": high}


def comparison_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """``second against first, 64 held-out pairs: accuracy 0.641 → 0.969 (21 won, 0 lost, p 9.5e-07), margin … +0.12 [0.10, 0.14]``."""
    for each in found:
        if "reason" in each:
            yield f"{each['title']}: {each['reason']}"
            continue
        low, high = each["margin_low"], each["margin_high"]
        interval = "" if low is None else f" [{low:+.4f}, {high:+.4f}]"
        yield (
            f"{each['title']}, {each['pairs']} held-out pairs: accuracy {each['first_accuracy']:.3f} → {each['second_accuracy']:.3f} "
            f"({each['won']} won, {each['lost']} lost, p {each['p_value']:.2g}), margin {each['margin_change']:+.4f}{interval}"
        )
