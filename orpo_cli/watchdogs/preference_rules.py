"""Watchdog rules about what ORPO teaches: log-probabilities, the odds ratio term, held-out accuracy, evaluations, length.

Where there are held-out pairs, these decide: they are the same pairs each time. Otherwise the start of the training is compared
with its present end, and a difference counts only beyond its standard error. Return values are those of ``training_rules``.
"""

from __future__ import annotations

import math
from statistics import fmean

from orpo_cli.watchdogs.metric_history import MIN_RECORDS, MetricHistory, Record, gain, values
from orpo_cli.watchdogs.training_rules import Verdict, present

CLEAR_ERRORS = 3.0  # standard errors of a change between batches of different pairs; lines are checked many times
LESS_LIKELY = 0.1  # log-probability per token: each token about 10% less likely
CHOSEN_NEAR_ZERO, REJECTED_LOW = -0.3, -5.0
GENERALIZES = -0.5  # log-probability of held-out chosen completions
NEGLIGIBLE_SHARE, FLAT_MARGIN = 0.05, 0.05
NEGLIGIBLE_AFTER, UNCHANGED_AFTER = 0.25, 0.5  # of the run
ALREADY_ACCURATE = 0.9
MIN_ACCURACY_PAIRS, MIN_TRAINING_PAIRS = 100, 400  # held-out pairs; pairs of the first and of the last steps
WORSE_EVALUATIONS, WORSE_BY = 3, 0.01
MIN_LENGTH_PAIRS, ONE_LENGTH, SAME_AS_BASE = 20, 0.9, 0.1


def chosen_likelihood_falls(history: MetricHistory) -> Verdict:
    """Chosen completions become less likely than under the base while the margin grows."""
    chosen, margin = (_change(history, name, strict=False) for name in ("logps/chosen", "margin"))
    if chosen is None or margin is None:
        return None
    (before, now, most_gain), (margin_before, margin_now, _) = chosen, margin
    if most_gain > -LESS_LIKELY or margin_now <= margin_before:
        return False
    return (
        f"logps/chosen fell from {before:.2f} {_reference(history)} to {now:.2f}, while the margin per token rose from "
        f"{margin_before:.2f} to {margin_now:.2f}. Under DPO this is usual, but the NLL term of ORPO should raise logps/chosen: the "
        "odds ratio term outweighs it, or the steps are too large. Lower "
        f"training.beta{present(history.setup.beta)} or training.learning_rate{present(history.setup.learning_rate)}."
    )


def overfitting(history: MetricHistory) -> Verdict:
    """Chosen completions of the training pairs are nearly certain, and rejected ones nearly impossible."""
    lines = list(history.recent)[-MIN_RECORDS:]
    chosen, rejected = values(lines, "logps/chosen"), values(lines, "logps/rejected")
    if min(len(chosen), len(rejected)) < MIN_RECORDS:
        return None
    if fmean(chosen) < CHOSEN_NEAR_ZERO or fmean(rejected) > REJECTED_LOW:
        return False
    held_out = history.evaluations[-1].get("eval_logps/chosen") if history.evaluations else None
    if held_out is not None and held_out >= GENERALIZES:
        return False
    compared = "" if held_out is None else f", and logps/chosen {held_out:.2f} on held-out pairs"
    return (
        f"logps/chosen is {fmean(chosen):.2f} and logps/rejected {fmean(rejected):.2f} on the training pairs{compared}. The model has "
        "memorized them, and gets worse on other prompts. Use an earlier checkpoint or fewer epochs, and look for pairs that occur "
        "several times (`orpo data`)."
    )


def odds_ratio_negligible(history: MetricHistory) -> Verdict:
    """The odds ratio term is small beside the NLL, and the margin does not move."""
    share = _odds_ratio_share(history)
    change = _change(history, "margin", strict=True)
    if share is None or change is None or history.progress(_step(history)) < NEGLIGIBLE_AFTER:
        return None
    before, now, most_gain = change
    if share > NEGLIGIBLE_SHARE or most_gain > FLAT_MARGIN or _accuracy(history) >= ALREADY_ACCURATE:
        return False
    return (
        f"the odds ratio term is {share:.1%} of the loss, and the margin per token is {now:.3f}, after {before:.3f} "
        f"{_reference(history)}. The model learns to write the chosen completions, and no preference. Raise "
        f"training.learning_rate{present(history.setup.learning_rate)}, then training.beta{present(history.setup.beta)}."
    )


def accuracy_unchanged(history: MetricHistory) -> Verdict:
    """After half of the run, the accuracy is that of the base, as far as the number of pairs can tell."""
    if history.progress(_step(history)) < UNCHANGED_AFTER:
        return None
    found = _accuracies(history)
    least = MIN_ACCURACY_PAIRS if history.judges_by_evaluations else MIN_TRAINING_PAIRS
    if found is None or min(found[1], found[3]) < least:
        return None
    before, pairs_before, now, pairs = found
    error = math.sqrt(before * (1 - before) / pairs_before + now * (1 - now) / pairs)
    if history.judges_by_evaluations:  # of the same pairs, so that their difference has a smaller error
        error /= 2
    if before >= ALREADY_ACCURATE or now - before > error:
        return False
    return (
        f"accuracy is {now:.3f} after {history.progress(_step(history)):.0%} of the run, and was {before:.3f} {_reference(history)}; "
        f"a gain of up to {error:.3f} is within the noise. The preference has not been learned so far. Raise "
        f"training.learning_rate{present(history.setup.learning_rate)} or training.beta{present(history.setup.beta)}, and check that "
        "chosen and rejected are not swapped in a part of the data (`orpo data`)."
    )


def evaluation_worse(history: MetricHistory) -> Verdict:
    """The evaluation loss has been above its best value for several evaluations."""
    losses = [
        (each["step"], each["eval_loss"])
        for each in ([history.base] if history.base else []) + history.evaluations
        if "eval_loss" in each
    ]
    if len(losses) <= WORSE_EVALUATIONS:
        return None
    best_step, best = min(losses, key=lambda each: each[1])
    since = [loss for step, loss in losses if step > best_step]
    if len(since) < WORSE_EVALUATIONS or min(since[-WORSE_EVALUATIONS:]) < best * (1 + WORSE_BY):
        return False
    return (
        f"eval_loss is {losses[-1][1]:.3f}, and was lowest with {best:.3f} at step {best_step:.0f}, {len(since)} evaluations before. "
        "The model now fits its training pairs at the cost of others. Use the checkpoint with the lowest eval_loss "
        "(training.load_best_model_at_end), or train fewer epochs."
    )


def length_bias(history: MetricHistory) -> Verdict:
    """The model prefers the longer (or the shorter) completion of nearly every held-out pair, whichever is chosen."""
    if not history.evaluations:
        return None
    found = [_accuracy_by_length(history.evaluations[-1], group) for group in ("longer", "shorter")]
    if any(each is None or each[1] < MIN_LENGTH_PAIRS for each in found):
        return None
    (longer, longer_pairs), (shorter, shorter_pairs) = (each for each in found if each is not None)
    if history.base is not None:  # some bases prefer a length, and the training has not changed that
        base = [_accuracy_by_length(history.base, group) for group in ("longer", "shorter")]
        pairs = zip(base, (longer, shorter), strict=True)
        if all(before is not None and abs(before[0] - now) <= SAME_AS_BASE for before, now in pairs):
            return False
    if longer >= ONE_LENGTH and shorter <= 1 - ONE_LENGTH:
        preferred = "longer"
    elif shorter >= ONE_LENGTH and longer <= 1 - ONE_LENGTH:
        preferred = "shorter"
    else:
        return False
    return (
        f"the model prefers the {preferred} completion: accuracy is {longer:.2f} where chosen is the longer one ({longer_pairs:.0f} "
        f"held-out pairs) and {shorter:.2f} where it is the shorter one ({shorter_pairs:.0f} pairs). It has learned a length in place "
        f"of a preference. Add training pairs whose chosen completion is {'shorter' if preferred == 'longer' else 'longer'}, or drop "
        "some of the others (`orpo data` shows the lengths)."
    )


def _change(history: MetricHistory, name: str, *, strict: bool) -> tuple[float, float, float] | None:
    """The value of a metric before, its value now, and the most that it can have risen.

    Held-out pairs are the same before and now. Batches have other pairs, so there the limit has their standard error.
    """
    if history.base is not None and history.judges_by_evaluations:
        before, now = (line.get(f"eval_{name}") for line in (history.base, history.evaluations[-1]))
        return None if before is None or now is None else (before, now, now - before)
    start, end = (values(lines, name) for lines in history.start_and_end(strict=strict))
    change = gain(start, end)
    return None if change is None else (fmean(start), fmean(end), change[0] + CLEAR_ERRORS * change[1])


def _reference(history: MetricHistory) -> str:
    """What the present value is compared with, for a message."""
    if history.base is not None and history.judges_by_evaluations:
        return f"(base, {history.base.get('eval_pairs', 0):.0f} held-out pairs)"
    return "(first steps)"


def _step(history: MetricHistory) -> float:
    """The step that a rule judges."""
    judged = history.evaluations[-1] if history.judges_by_evaluations else history.last
    return float(judged.get("step", 0))


def _odds_ratio_share(history: MetricHistory) -> float | None:
    """The odds ratio term as a part of the loss, over the last lines."""
    beta = history.setup.beta
    lines = [each for each in history.recent if "log_odds_ratio" in each and each.get("loss", 0) > 0][-MIN_RECORDS:]
    if beta is None or len(lines) < MIN_RECORDS:
        return None
    return -beta * fmean(values(lines, "log_odds_ratio")) / fmean(values(lines, "loss"))


def _accuracies(history: MetricHistory) -> tuple[float, float, float, float] | None:
    """Accuracy and pairs before and now: of held-out pairs, or of the first and the last training pairs."""
    name = "rewards/accuracies"
    if history.base is not None and history.judges_by_evaluations:
        before, now = history.base.get(f"eval_{name}"), history.evaluations[-1].get(f"eval_{name}")
        pairs = history.evaluations[-1].get("eval_pairs", 0)
        return None if before is None or now is None else (before, pairs, now, pairs)
    start, end = ([each for each in lines if name in each] for lines in history.start_and_end(strict=True))
    if not start or not end:
        return None
    return fmean(values(start, name)), _pairs(start), fmean(values(end, name)), _pairs(end)


def _pairs(lines: list[Record]) -> float:
    return float(sum(each["line_pairs"] for each in lines))


def _accuracy(history: MetricHistory) -> float:
    """The present accuracy; 0 where it is not known."""
    found = _accuracies(history)
    return 0.0 if found is None else found[2]


def _accuracy_by_length(evaluation: Record, group: str) -> tuple[float, float] | None:
    """Accuracy and number of the held-out pairs whose chosen completion is ``longer`` or ``shorter``."""
    accuracy = evaluation.get(f"eval_accuracies_chosen_{group}")
    pairs = evaluation.get(f"eval_pairs_chosen_{group}")
    return None if accuracy is None or pairs is None else (accuracy, pairs)
