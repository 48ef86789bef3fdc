"""Paired comparison of two runs, or of a run with its base model, on the same held-out pairs."""

from __future__ import annotations

from typing import Literal

from orpo_cli.json_files import object_or_empty
from orpo_cli.report.pair_scores import Scores, compare_scores, scores_by_name, scores_of_evaluation
from orpo_cli.report.run_history import RunHistory
from orpo_cli.statistics import PairedComparison

Variant = Literal["base", "tuned"]


def held_out_scores(history: RunHistory, variant: Variant = "tuned") -> Scores:
    """The scores of the held-out pairs by name; {} where there are none.

    Those of `orpo eval`, which scores the saved weights, or else of the evaluation of these weights during training; of the base
    model those at step 0.
    """
    entries = history.evaluation.get("scores")
    if isinstance(entries, list) and history.evaluation.get("data") == "held-out":
        rows = [each for each in entries if isinstance(each, dict)]
        models = [object_or_empty(object_or_empty(each.get("models")).get(variant)) for each in rows]
        scores = scores_by_name(
            (str(row.get("row")), model.get("logps/chosen"), model.get("logps/rejected"), row.get("weight", 1.0))
            for row, model in zip(rows, models, strict=True)
        )
        if scores:
            return scores
    step = 0 if variant == "base" else history.saved_eval.get("step")
    found = [each for each in history.scores if each.get("step") == step]
    return scores_of_evaluation(found[-1]) if found else {}


def compare_with_base(history: RunHistory) -> PairedComparison | str:
    """The tuned model against its base; a sentence that says why where that is not possible."""
    base = held_out_scores(history, "base")
    if not base:
        return f"{history.path}: the base model has no scores on the held-out pairs. `orpo eval {history.path}` computes them."
    return compare_scores(base, held_out_scores(history)) or f"{history.path} has no scores of the trained model."


def compare_runs(first: RunHistory, second: RunHistory) -> PairedComparison | str:
    """The second run against the first one, on the pairs that both held out; a sentence that says why where that is not possible."""
    for each in (first, second):
        if not held_out_scores(each):
            return f"{each.path} has no scores of held-out pairs. `orpo eval {each.path}` computes them."
    if (sources := held_out_data(first)) and (others := held_out_data(second)) and sources != others:
        return f"{first.path} and {second.path} held out pairs of different data."
    comparison = compare_scores(held_out_scores(first), held_out_scores(second))
    return comparison or f"{first.path} and {second.path} held out no common pair."


def held_out_data(history: RunHistory) -> set[str]:
    """Fingerprints of the data that the held-out pairs are from: the data for evaluation, or the training data that was split."""
    listed = history.data_report.get("sources")
    sources = [object_or_empty(each) for each in listed] if isinstance(listed, list) else []
    held_out = [each for each in sources if each.get("part") == "eval"] or sources
    return {str(each["fingerprint"]) for each in held_out if each.get("fingerprint")}
