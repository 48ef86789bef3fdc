"""Listing of runs (`orpo runs`): find them, sort them by a metric, choose the best one for a script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.did_you_mean import closest_name
from orpo_cli.report.assertions import expression_value
from orpo_cli.report.console import Console
from orpo_cli.report.find_runs import find_runs
from orpo_cli.report.paired_comparison import held_out_data, held_out_scores
from orpo_cli.report.run_history import OF_ORPO_EVAL, RunHistory, read_history
from orpo_cli.run_attempts import FINISHED
from orpo_cli.rundir import RUNS_FOLDER, RunDir, near_run_remedy

# Metrics of which less is better. Of all others, more is.
_LESS_IS_BETTER = re.compile(r"(?:\b|_)(loss|nll|grad_norm|seconds|elapsed|memory_gb|warnings|attempts)\b")
_OF_HELD_OUT_PAIRS = re.compile(r"\b(eval|saved|base|tuned|change)\.")
INCOMPARABLE = "the runs held out different pairs: their evaluations cannot be compared with each other."
_SECONDS_UNTIL_NOTE = 1.0


@dataclass(frozen=True)
class BestRun:
    """The run that `--best` chooses, and its value."""

    path: str
    metric: str
    value: float


def read_runs(directories: Sequence[Path], console: Console) -> list[RunHistory]:
    """The runs in and below ``directories`` (default: runs), in the order of their start. Directories that are not runs are named.

    Raises UsageError where one of the directories does not exist.
    """
    for each in directories:
        if not each.is_dir():
            raise UsageError(
                f"{each}: {'not a directory' if each.exists() else 'no such directory'}.",
                remedy=near_run_remedy(
                    each, "Give a folder with runs: the output_dir of an `orpo train`, or one above it."
                ),
            )
    histories = []
    for path in find_runs([run_or_folder(each) for each in directories] or [RUNS_FOLDER]):
        history = read_history(path)
        if history.run.get("status") is None and not history.values:
            console.warn(f"{path}: left out: its run.json and plan.json are damaged or not from orpo.")
        else:
            histories.append(history)
    return sorted(histories, key=lambda each: (str(each.run.get("started_at") or ""), str(each.path)))


def run_or_folder(path: Path) -> Path:
    """The run whose adapter, model or merged model ``path`` is; else ``path`` itself."""
    try:
        rundir = RunDir.find(path, merged=True)
    except OSError:  # not readable
        return path
    return path if rundir is None else rundir.root


def read_statuses(histories: Sequence[RunHistory], console: Console) -> None:
    """Read all statuses at once: each takes up to 15 s where a run was killed, or trains, on another machine."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        waiting = wait([pool.submit(getattr, each, "status") for each in histories], _SECONDS_UNTIL_NOTE).not_done
        if waiting:
            console.note(f"checking whether runs of other machines still train ({len(waiting)})")


def sort_runs(histories: Sequence[RunHistory], metric: str) -> list[RunHistory]:
    """The runs by a metric, the best one first; those without a value last. Raises UsageError where no run has one."""
    values = _values(histories, metric)
    sign = 1 if less_is_better(metric) else -1
    return sorted(histories, key=lambda each: (each.path not in values, sign * values.get(each.path, 0.0)))


def best_run(histories: Sequence[RunHistory], metric: str) -> BestRun:
    """The finished run with the best value of a metric. Raises UsageError where no finished run has one."""
    finished = [each for each in histories if each.run.get("status") == FINISHED]
    if not finished:
        raise UsageError(
            f"--best {metric}: none of {len(histories)} runs is finished."
            if histories
            else f"--best {metric}: there is no run.",
            remedy="Finish one: `orpo train RECIPE --resume auto`."
            if histories
            else "Give the folder of the runs: orpo runs DIR.",
        )
    first = sort_runs(finished, metric)[0]
    return BestRun(str(first.path), metric, _values([first], metric)[first.path])


def less_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is the better one, such as a loss."""
    return _LESS_IS_BETTER.search(metric) is not None


def _values(histories: Sequence[RunHistory], metric: str) -> dict[Path, float]:
    found = {each.path: expression_value(each, metric) for each in histories}
    values = {path: value for path, value in found.items() if value is not None}
    if histories and not values:
        of_eval = re.search(rf"\b({'|'.join(OF_ORPO_EVAL)})\.", metric)
        if of_eval and all(each.lacks_evaluation_of(of_eval[0]) for each in histories):
            raise UsageError(
                f"{metric} is a metric of `orpo eval`, which has evaluated none of {len(histories)} runs.",
                remedy=f"Run it for each of them first: `orpo eval {histories[0].path}`.",
            )
        known = list(dict.fromkeys(name for each in histories for name in each.metric_names()))
        if metric in known:
            raise UsageError(
                f"none of {len(histories)} runs has a value of {metric}: in the evaluation of the saved weights it was not a finite "
                "number.",
                remedy=f"An expression chooses another value: min({metric}), max({metric}).",
            )
        close = closest_name(metric, known)
        listed = f"They have: {', '.join(known)}." if known else "They have no metrics yet."
        raise UsageError(
            f"none of {len(histories)} runs has the metric {metric!r}.",
            remedy=f"Did you mean `{close}`? {listed}" if close else listed,
        )
    return values


def compares_different_pairs(histories: Sequence[RunHistory], metric: str) -> bool:
    """Whether ``best_run`` compares a metric of the held-out pairs, such as ``eval.accuracy``, of runs that held out different ones."""
    finished = [each for each in histories if each.run.get("status") == FINISHED]
    return _OF_HELD_OUT_PAIRS.search(metric) is not None and incomparable_evaluations(finished)


def incomparable_evaluations(histories: Sequence[RunHistory]) -> bool:
    """Whether the runs held out different pairs, so that their evaluations cannot be compared."""
    evaluated = [each for each in histories if each.last_eval]
    if len({digest for each in evaluated if (digest := _eval_digest(each))}) <= 1 and all(map(_eval_digest, evaluated)):
        return False  # the same tokens of the same pairs: the usual case, without reading the scores
    names = [frozenset(scores) for each in evaluated if (scores := held_out_scores(each))]
    data = [sources for each in evaluated if (sources := held_out_data(each))]
    return len(set(names)) > 1 or any(each != data[0] for each in data)


def _eval_digest(history: RunHistory) -> str | None:
    """The digest of the tokens of the held-out pairs; None for a run that has not recorded it."""
    value: Any = history.run
    for key in ("fingerprints", "data", "eval", "digest"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
