"""Sections of the report page below the charts: comparisons, samples, plan, data, differences, environment, findings, recipes.

All values are plain text and numbers: the template escapes them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from orpo_cli.json_files import first_number, is_number, object_or_empty
from orpo_cli.report.answers_view import prompt_text
from orpo_cli.report.benchmark_view import benchmark_settings, benchmark_table, benchmark_title
from orpo_cli.report.comparisons import comparisons_with_base, comparisons_with_first
from orpo_cli.report.remaining_time import duration_text
from orpo_cli.report.run_differences import changed_keys, run_labels, value_text
from orpo_cli.report.run_history import MAX_VALUE, RunHistory
from orpo_cli.watchdogs.watchdogs import check

MAX_PROMPTS, MAX_SAMPLED_RUNS = 20, 6
NOT_RECORDED = "not recorded"


def sections(histories: Sequence[RunHistory]) -> dict[str, Any]:
    """The sections of a page of these runs, in their order. Lists "per run" are in the order of ``histories``."""
    labels = run_labels(histories)
    return {
        "labels": labels,
        "comparisons": comparisons_with_base(histories, labels) + comparisons_with_first(histories, labels),
        "benchmarks": benchmarks(histories, labels),
        "samples": samples(histories, labels),
        "plan": [planned_and_measured(history) for history in histories],
        "data": [data_rows(history) for history in histories],
        "differences": differences(histories, labels),
        "environment": [environment_rows(history) for history in histories],
        "findings": [findings(history) for history in histories],
        "recipe": [history.recipe for history in histories],
    }


def benchmarks(histories: Sequence[RunHistory], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The results of `orpo benchmark` of each run: figures, and what decided them."""
    found = []
    for history, label in zip(histories, labels, strict=True):
        for result in history.benchmarks:
            columns, rows = benchmark_table(result)
            title = f"{label}: {benchmark_title(result)}"
            settings = benchmark_settings(result, history.run)
            found.append({"title": title, "columns": columns, "rows": rows, "settings": settings})
    return found


def samples(histories: Sequence[RunHistory], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Answers to the same prompts: of the base model first, then of each run. From `orpo generate --compare`."""
    prompts: dict[str, tuple[str, list[dict[str, str]]]] = {}  # by all of its messages
    for history, label in list(zip(histories, labels, strict=True))[:MAX_SAMPLED_RUNS]:
        answers = history.samples.get("answers")
        for answer in answers if isinstance(answers, list) else []:
            if not isinstance(answer, dict) or not isinstance(answer.get("prompt"), str):
                continue
            key = json.dumps([answer["prompt"], answer.get("messages")])
            _, shown = prompts.setdefault(key, (prompt_text(answer), []))
            texts = {each: object_or_empty(answer.get(each)).get("text") for each in ("base", "tuned")}
            if isinstance(texts["base"], str) and not any(each["label"] == "base" for each in shown):
                shown.insert(0, {"label": "base", "text": texts["base"]})
            if isinstance(texts["tuned"], str):
                shown.append({"label": label, "text": texts["tuned"]})
    shared_first = sorted(prompts.values(), key=lambda item: -len(item[1]))  # stable: else in the order of the files
    return [{"prompt": prompt, "answers": answers} for prompt, answers in shared_first[:MAX_PROMPTS] if answers]


def planned_and_measured(history: RunHistory) -> list[dict[str, str]]:
    """What the plan expected beside what was measured."""
    run, last, estimate = history.run, history.last_train, object_or_empty(history.run.get("estimate"))
    seconds, evaluating = (
        _product(history.total_steps, estimate.get("seconds_per_step")),
        estimate.get("evaluation_seconds"),
    )
    if seconds is not None and is_number(evaluating):
        seconds += evaluating
    rows = [
        ("steps", history.total_steps, history.steps, "{:,.0f}"),
        ("pairs", _planned_pairs(history), last.get("pairs"), "{:,.0f}"),
        ("tokens", None, last.get("tokens"), "{:,.0f}"),
        ("peak memory", estimate.get("memory_gb"), history.peak_memory_gb, "{:.2f} GB"),
        ("time", seconds, first_number(run.get("train_seconds"), run.get("seconds"), last.get("elapsed")), "time"),
        ("pairs per second", None, run.get("pairs_per_second"), "{:.2f}"),
        ("tokens per second", None, first_number(run.get("tokens_per_second"), last.get("tokens_per_second")), "{:,.0f}"),
    ]  # fmt: skip
    return [
        {
            "name": name,
            "planned": "" if planned is None else _formatted(planned, form),
            "measured": _formatted(measured, form),
        }
        for name, planned, measured, form in rows
        if is_number(planned) or is_number(measured)
    ]


def _planned_pairs(history: RunHistory) -> float | None:
    """Pairs of all steps; the last step of an epoch may have fewer than the others."""
    of_steps = _product(history.total_steps, history.values.get("launch.pairs_per_step"))
    if is_number(history.values.get("training.max_steps")) and history.values["training.max_steps"] > 0:
        return of_steps
    of_epochs = _product(history.values.get("training.num_train_epochs"), history.data_report.get("train_pairs"))
    return of_steps if of_steps is None or of_epochs is None else min(of_steps, of_epochs)


def data_rows(history: RunHistory) -> list[list[str]]:
    """The data report: pairs, dropped rows by reason, truncated sides, lengths, sources."""
    report = history.data_report
    rows = [["training pairs", report.get("train_pairs")], ["held-out pairs", report.get("eval_pairs")]]
    rows += [["rows read", report.get("rows_read")]]
    reasons = object_or_empty(report.get("reasons"))
    rows += [
        [f"dropped: {reasons.get(rule, rule)}", count] for rule, count in object_or_empty(report.get("dropped")).items()
    ]
    for side in ("prompts", "completions"):
        if report.get(f"truncated_{side}"):
            rows.append([f"truncated {side}", report[f"truncated_{side}"]])
    rows.append(["maximum length", report.get("max_length")])
    for part, of_part in object_or_empty(report.get("lengths")).items():
        for side, lengths in object_or_empty(of_part).items():
            tokens = object_or_empty(lengths)
            rows.append(
                [
                    f"{part}: tokens of {side}",
                    ", ".join(f"{name} {value_text(value)}" for name, value in tokens.items()),
                ]
            )
    sources = report.get("sources")
    for source in sources if isinstance(sources, list) else []:
        found = object_or_empty(source)
        rows.append(
            [
                f"source for {found.get('part', 'training')}",
                f"{value_text(found.get('location'))}, {value_text(found.get('kept'))} pairs",
            ]
        )
    return [[str(name), value_text(value)] for name, value in rows if value is not None]


def differences(histories: Sequence[RunHistory], labels: Sequence[str]) -> dict[str, Any]:
    """What differs between the runs: keys of the recipe, then versions and machine."""
    changed = changed_keys(histories)
    rows = [
        [key, *(value_text(values.get(key)) for values in changed)]
        for key in dict.fromkeys(key for values in changed for key in values)
    ]
    environments = [{name: value for name, value in environment_rows(each) if name != "command"} for each in histories]
    for name in dict.fromkeys(name for each in environments for name in each):
        values = [each.get(name, "-") for each in environments]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return {"columns": list(labels), "rows": rows}


def environment_rows(history: RunHistory) -> list[list[str]]:
    """Machine, versions and command of a run."""
    run = history.run
    machine = object_or_empty(run.get("machine"))
    command = run.get("command")
    values: dict[str, Any] = {
        "devices": machine.get("devices") or history.values.get("device"),
        "device memory": _formatted(machine.get("device_memory_gb"), "{:.1f} GB"),
        "driver": machine.get("driver"),
        "processor": machine.get("processor"),
        "CPUs": machine.get("cpus"),
        "memory": _formatted(machine.get("memory_gb"), "{:.1f} GB"),
        "platform": run.get("platform"),
        "python": run.get("python"),
        "orpo-cli": run.get("orpo_cli"),
        "git commit": run.get("git_commit"),
        **object_or_empty(run.get("versions")),
        "command": shlex.join(["orpo", *map(str, command[1:])]) if isinstance(command, list) and command else None,
    }
    return [
        [name, value_text(value, short=False)]
        for name, value in values.items()
        if value not in (None, "", NOT_RECORDED)
    ]


def findings(history: RunHistory) -> list[dict[str, Any]]:
    """What the watchdogs have found in a run: its events, or for a run of an older version what they find now."""
    if history.events:
        found = [record for record in history.events if record.get("event") == "watchdog"]
        return [
            {"step": each["step"], "code": str(each.get("code", "")), "message": str(each.get("message", ""))}
            for each in found
        ]
    lines = sorted([*history.train, *history.evals], key=lambda record: record["step"])
    numbers = (
        {name: value for name, value in line.items() if name == "kind" or (is_number(value) and abs(value) < MAX_VALUE)}
        for line in lines
    )
    try:
        return [vars(each) for each in check(numbers, history.plan)]
    except (ArithmeticError, TypeError, ValueError):  # values of a damaged plan
        return []


def _formatted(value: Any, form: str) -> str:
    if not is_number(value):
        return NOT_RECORDED
    return duration_text(value) if form == "time" else form.format(value)


def _product(first: Any, second: Any) -> float | None:
    return first * second if is_number(first) and is_number(second) else None
