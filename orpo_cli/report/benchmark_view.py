"""Benchmark results as texts for the terminal, the report and the model card: a table of figures, and what decided them.

Results of a damaged or edited file are shown as far as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from orpo_cli.json_files import is_number

TITLES = {"ifeval": "IFEval", "alpaca_eval": "AlpacaEval", "mt_bench": "MT-Bench"}
ANSWER_TITLES = {
    "answers": "answers",
    "truncated": "truncated at the maximum",
    "tokens_mean": "tokens of an answer",
    "characters_mean": "characters of an answer",
}

Result = Mapping[str, Any]


def benchmark_title(result: Result) -> str:
    """The name of the benchmark, as its authors write it."""
    task = str(result.get("task"))
    return TITLES.get(task, task)


def outdated_note(result: Result, run: Result) -> str:
    """Text that says that a run (``run``: its run.json) was trained further after the benchmark; empty where it was not."""
    step, steps = _mapping(result.get("model")).get("step"), run.get("steps")
    date, finished = str(result.get("date") or ""), str(run.get("finished_at") or "")
    if is_number(step) and is_number(steps):
        if step == steps:
            return ""
        measured = f"measured after step {step:g}; the run has {steps:g} steps now"
    elif date and date < finished:
        measured = f"measured on {date}; the run was trained until {finished}"
    else:
        return ""
    return f"{measured}: the figures of the tuned model are not those of the result"


def benchmark_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows: each metric with its interval for every variant, then the change with its test."""
    models = {str(variant): _mapping(values) for variant, values in _mapping(result.get("models")).items()}
    change = _mapping(result.get("change"))
    metrics = dict.fromkeys(metric for values in models.values() for metric in values if is_number(values[metric]))
    titles = ["", *models, *(["change", "won", "lost", "p"] if change else [])]
    rows = []
    for metric in metrics:
        row = [metric, *(_value(values, metric) for values in models.values())]
        rows.append(row + (_change(change, metric) if change else []))
    for name, title in ANSWER_TITLES.items():
        found = [_mapping(values.get("answers")).get(name) for values in models.values()]
        if any(is_number(value) for value in found):
            rows.append([title, *map(_count, found), *([""] * 4 if change else [])])
    return titles, rows


def benchmark_settings(result: Result, run: Result | None = None) -> list[tuple[str, str]]:
    """What decided the figures, by name. ``run``: run.json of the run in which the result is, which may be newer."""
    questions, prompts, decoding = (_mapping(result.get(name)) for name in ("questions", "prompts", "decoding"))
    versions = _mapping(result.get("versions"))
    bos = _mapping(prompts.get("leading_bos_tokens"))
    listed = [f"{name} {version}" for name, version in versions.items() if version]
    values = {
        "older model": outdated_note(result, run or {}),
        "questions": _questions(questions),
        "chat template": _template(prompts),
        "BOS tokens at the start": f"{bos.get('min')} to {bos.get('max')}"
        if bos.get("min") != bos.get("max")
        else bos.get("min"),
        "decoding": _decoding(decoding),
        "versions": ", ".join(listed),
        "date": result.get("date"),
    }
    return [(name, str(value)) for name, value in values.items() if value not in (None, "")]


def _questions(questions: Result) -> str:
    if not questions:
        return ""
    source = str(questions.get("source"))
    shown = PurePath(source).name if source.startswith(("/", "~", "..")) else source  # for readers elsewhere
    text = f"{questions.get('asked')} of {questions.get('available')}, {shown}"
    if questions.get("revision"):
        return f"{text} at commit {questions['revision']}"
    return text + (f", sha256 {str(questions['sha256'])[:16]}" if questions.get("sha256") else "")


def _template(prompts: Result) -> str:
    if not prompts:
        return ""
    if prompts.get("plain"):
        return "none"
    system = prompts.get("system")
    return f"digest {prompts.get('chat_template')}" + (f", system message {system!r}" if system else "")


def _decoding(decoding: Result) -> str:
    if not decoding:
        return ""
    temperature = decoding.get("temperature")
    if isinstance(temperature, Mapping):
        how = "temperature by category"
    else:
        how = "greedy" if temperature == 0 else f"temperature {temperature}"
    sampled = how != "greedy"
    return f"{how}, at most {decoding.get('max_new_tokens')} new tokens" + (
        f", top-p {decoding.get('top_p')}, seed {decoding.get('seed')}" if sampled else ""
    )


def _value(values: Result, metric: str) -> str:
    value = values.get(metric)
    if not is_number(value):
        return ""
    interval = _mapping(values.get("intervals")).get(metric)
    if isinstance(interval, list | tuple) and len(interval) == 2 and all(map(is_number, interval)):
        return f"{value:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{value:.4f}"


def _change(change: Result, metric: str) -> list[str]:
    value, p_value = change.get(metric), _mapping(change.get("p_values")).get(metric)
    counts = (_mapping(change.get(name)).get(metric) for name in ("won", "lost"))
    return [
        f"{value:+.4f}" if is_number(value) else "",
        *map(_count, counts),
        f"{p_value:.3g}" if is_number(p_value) else "",
    ]


def _count(value: Any) -> str:
    if not is_number(value):
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _mapping(value: Any) -> Result:
    return value if isinstance(value, Mapping) else {}
