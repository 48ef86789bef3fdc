"""Evaluation of a model on preference pairs: metrics of base and tuned, and their difference."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from orpo_cli import __version__
from orpo_cli.errors import OrpoError
from orpo_cli.evaluation.eval_target import EvalTarget, Variant
from orpo_cli.evaluation.held_out_pairs import HeldOutPairs
from orpo_cli.evaluation.kept_scores import KeptScores, Key, keep_scores, read_scores, scores_key
from orpo_cli.evaluation.metrics import (
    accuracies_by_length,
    effective_pairs,
    intervals,
    margin_intervals,
    margins_of,
    preference_metrics,
    weighted_mean,
)
from orpo_cli.evaluation.preference_scores import PairScorer, PairScores, Progress, mixed_precision
from orpo_cli.model.onednn import use_onednn
from orpo_cli.model.vector_math import initialize_vector_math
from orpo_cli.planning.plan import Plan
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS
from orpo_cli.redaction import redact_record
from orpo_cli.run_records import write_record
from orpo_cli.rundir import RunDir
from orpo_cli.statistics import accuracy_limit_note, compare_margins

RARE = 0.05  # of p-values
ENOUGH_STEPS = 100  # with fewer, more epochs are the first remedy for a margin that has not changed
MIN_PAIRS_OF_LENGTH = 10
CLEAR_CHANGE = 0.1  # of an accuracy: in 30 pairs, three pairs


def evaluate(
    target: EvalTarget,
    held_out_pairs: HeldOutPairs,
    *,
    batch_size: int | None = None,
    progress: Callable[[Variant], Progress] | None = None,
    scorer: PairScorer | None = None,
    recompute: bool = False,
) -> dict[str, Any]:
    """Evaluate every variant of ``target``: metrics, their change, and the scores of each pair, as a JSON object.

    Scores of the base that an earlier evaluation computed are used again unless ``recompute``; the document says so under
    ``reused``. Metrics have TRL's names and the units of ``metrics.preference_metrics``. Raises RunError, MachineError.
    """
    started = time.monotonic()
    training = target.plan.training if target.plan else LIBRARY_DEFAULTS
    merged = None if target.plan else _beta_of_merged(target.name)
    beta = float(training["beta"]) if merged is None else merged
    options = {
        "batch_size": batch_size or training_batch_size(target.plan),
        "loss_on_prompt": training.get("loss_on_prompt", True),
    }
    evaluation = _Evaluation(target, held_out_pairs.rows, options, scorer or PairScorer(), progress)
    with computing_as_in_training(target.plan):
        scores, kept = evaluation.scores(recompute)
    models = {variant: {**_metrics(each, beta), "intervals": intervals(each, beta)} for variant, each in scores.items()}
    change = _change(scores, beta)
    before: Any = models["base"]["rewards/accuracies"] if "base" in models else None
    steps = None if target.rundir is None else target.rundir.read_run().get("steps")
    findings = []
    if change is not None:
        findings += [*_findings(change, before, effective_pairs(scores["base"]), steps), *_accuracy_by_length(scores)]
    document: dict[str, Any] = {
        "status": "evaluated",
        "name": target.name,
        "orpo_cli": __version__,
        "data": redact_record(held_out_pairs.source),
        "pairs": len(held_out_pairs.rows),
        "pairs_available": held_out_pairs.available,
        "same_as_in_training": held_out_pairs.same_as_in_training,
        "beta": beta,
        "models": models,
        "change": change,
        "findings": findings,
        "reused": {} if kept is None else {"base": kept.as_record()},
        "seconds": round(time.monotonic() - started, 1),
        "scores": _scores_by_pair(held_out_pairs, scores),
    }
    return document


def _beta_of_merged(name: str) -> float | None:
    """The beta of the run whose merged model this is, so that its margins are those of the run; None for another model."""
    try:
        run = RunDir.find(name, merged=True)
        return None if run is None else float(run.read_plan().training["beta"])
    except (OSError, OrpoError):
        return None


@dataclass(frozen=True)
class _Evaluation:
    """Computation of the scores of ``rows``. ``options``: those of a call of ``scorer``."""

    target: EvalTarget
    rows: list[dict[str, Any]]
    options: dict[str, Any]
    scorer: PairScorer
    progress: Callable[[Variant], Progress] | None

    def scores(self, recompute: bool) -> tuple[dict[Variant, PairScores], KeptScores | None]:
        """Scores of every variant, and those of the base if an earlier evaluation computed them."""
        target, found = self.target, dict[Variant, PairScores]()
        key = self._base_key() if "base" in target.variants else None
        kept = read_scores(key) if key is not None and not recompute else None
        if kept is not None:
            found["base"] = kept.scores
        elif "base" in target.variants:
            found = self.scorer.score_base_and_tuned(target, self.rows, self._begin, **self.options) or found
        for variant in target.variants:
            if variant not in found:
                with target.use_variant(variant) as model:
                    found[variant] = self.scorer(model, self.rows, **self.options, progress=self._begin(variant))
        if key is not None and kept is None:
            keep_scores(key, found["base"], f"orpo eval {target.name}")
        return found, kept

    def _base_key(self) -> Key | None:
        with self.target.use_variant("base") as model:
            settings = self.scorer.settings(model, loss_on_prompt=self.options["loss_on_prompt"])
            return scores_key(model, self.rows, {**settings, "batch_size": self.options["batch_size"]})

    def _begin(self, variant: Variant) -> Progress | None:
        return self.progress(variant) if self.progress is not None else None


@contextmanager
def computing_as_in_training(plan: Plan | None) -> Iterator[None]:
    """Context in which a model computes as in the training of ``plan``, so that its evaluation gives the same digits."""
    if plan is None:
        yield
        return
    if plan.device == "cpu":
        use_onednn()
        initialize_vector_math()
    half = {name: bool(plan.training.get(name)) for name in ("bf16", "fp16")}
    with mixed_precision(torch.device(plan.device), **half):
        yield


def training_batch_size(plan: Plan | None) -> int | None:
    """Completions of a batch in an evaluation of the training; None where tokens limit it."""
    pairs = None if plan is None else plan.training.get("per_device_eval_batch_size")
    return None if pairs is None else 2 * int(pairs)


def record_evaluation(run: RunDir, document: dict[str, Any]) -> bool:
    """Write evaluation.json if ``document`` covers all held-out pairs of the run. Raises MachineError."""
    if document["data"] != "held-out" or document["pairs"] != document["pairs_available"]:
        return False
    write_record(run.evaluation, document)
    return True


def _change(scores: dict[Variant, PairScores], beta: float) -> dict[str, Any] | None:
    """Tuned minus base for every metric; an interval for the margin, and the pairs that became right or wrong."""
    if "base" not in scores:
        return None
    base, tuned = scores["base"], scores["tuned"]
    before, after = _metrics(base, beta), _metrics(tuned, beta)
    weights = None if tuned.weights is None else tuned.weights.tolist()
    paired = compare_margins(margins_of(base).tolist(), margins_of(tuned).tolist(), weights)
    return {
        **{name: after[name] - before[name] for name in before},
        "intervals": margin_intervals(paired.margin_interval, beta),
        "pairs_won": paired.won,
        "pairs_lost": paired.lost,
        "p_value": paired.p_value,
    }


def _metrics(scores: PairScores, beta: float) -> dict[str, float]:
    """TRL's metrics, and the margin without beta, which can be compared between runs of different beta."""
    return {**preference_metrics(scores, beta), "margin": weighted_mean(margins_of(scores), scores.weights)}


def _findings(change: dict[str, Any], base_accuracy: float, pairs: float, steps: int | None) -> Iterator[str]:
    """What the figures say about the training of so many ``steps``, where that is easily read wrongly.

    ``pairs``: with weights their effective number, as ``base_accuracy`` is weighted then.
    """
    interval = change["intervals"]["margin"]
    first = "raise the learning rate" if steps is not None and steps >= ENOUGH_STEPS else "train more epochs"
    what_to_do = f"{'' if steps is None else f' in {steps} steps'} ({first} first: orpo explain accuracy-unchanged)"
    if interval is not None and interval[0] > 0:
        yield "the margin grew, by more than chance: the interval of its change is above 0"
        if (p_value := change.get("p_value")) is not None and p_value >= RARE:
            yield (
                f"the accuracy did not change measurably (p {p_value:.2g}): it counts only which answer is preferred, so it needs more pairs "
                "than the margin"
            )
    elif interval is not None and interval[1] < 0:
        yield f"the margin fell: the interval of its change is below 0{what_to_do}"
    elif interval is not None:
        yield f"no measurable change of the margin: the interval of the change contains 0{what_to_do}"
    if note := accuracy_limit_note(base_accuracy, pairs):
        yield note


def _accuracy_by_length(scores: dict[Variant, PairScores]) -> Iterator[str]:
    """The accuracies where the chosen completion is the longer and the shorter one: a model may have learned the length alone."""
    longer, texts, changes = scores["tuned"].longer, [], dict[str, float]()
    if longer is None:
        return
    base, tuned = (accuracies_by_length(replace(scores[variant], longer=longer)) for variant in ("base", "tuned"))
    for name in ("longer", "shorter"):
        pairs = tuned[f"pairs_chosen_{name}"]
        if pairs < MIN_PAIRS_OF_LENGTH:
            return
        before, after = (each[f"accuracies_chosen_{name}"] for each in (base, tuned))
        texts.append(f"{before:.3f} → {after:.3f} where it is the {name} one ({pairs} pairs)")
        changes[name] = after - before
    grown = max(changes, key=lambda name: changes[name])
    only = f": it grew only where the answer is {grown}, so that the model may have learned the length"
    is_length = changes[grown] >= CLEAR_CHANGE and min(changes.values()) <= -CLEAR_CHANGE
    yield f"accuracy by the length of the chosen answer: {'; '.join(texts)}{only * is_length}"


def _scores_by_pair(held_out_pairs: HeldOutPairs, scores: dict[Variant, PairScores]) -> list[dict[str, Any]]:
    """Mean log-probabilities of each pair, for reports and for finding the pairs that a model gets wrong."""
    rows: list[dict[str, Any]] = []
    for index, row in enumerate(held_out_pairs.rows):
        logps = {
            variant: {"logps/chosen": each.chosen[index].item(), "logps/rejected": each.rejected[index].item()}
            for variant, each in scores.items()
        }
        weight = {} if row.get("weight", 1.0) == 1.0 else {"weight": row["weight"]}
        rows.append({"pair": row["pair"], "row": row["row"], **weight, "models": logps})
    return rows
