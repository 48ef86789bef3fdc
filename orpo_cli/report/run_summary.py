"""Summary of a finished run for the terminal: losses, evaluations with their intervals, time, speed, memory, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from orpo_cli.json_files import is_number, object_or_empty
from orpo_cli.report.plan_summary import nll_tokens, short_path, wrap_with_indent
from orpo_cli.report.remaining_time import duration_text
from orpo_cli.report.run_history import MARGIN, RunHistory, metric_value, pairs_of_incomplete_step
from orpo_cli.statistics import accuracy_limit_note

LABEL_WIDTH = 11


def summary_lines(history: RunHistory, width: int | None = None) -> Iterator[str]:
    """The lines of the summary: those for which the run has records. ``width``: None for lines that are not wrapped, in a pipe."""
    for label, text in _entries(history):
        yield from wrap_with_indent(text, width, label and label.ljust(LABEL_WIDTH), " " * LABEL_WIDTH)


def _entries(history: RunHistory) -> Iterator[tuple[str, str]]:
    """Label and text of each entry."""
    run, last = history.run, history.last_train
    seconds = run.get("train_seconds") or run.get("seconds") or 0  # of all attempts; of the last one in older runs
    planned, trained = run.get("planned_steps"), history.steps
    early = f" of {planned}" if is_number(planned) and planned > (trained or 0) else ""
    reason = ": stopped by a callback" if early else ""
    yield "", f"trained {trained}{early} steps in {duration_text(seconds)}{reason}"
    ends = (*history.train[-1:], *history.evals[-1:], *history.events[-1:])  # not every step has a line
    counted = max(ends, key=lambda line: line["pairs"] if is_number(line.get("pairs")) else 0, default={})
    amounts = [
        _number(counted, "pairs", "{:,.0f} pairs") + _epochs(counted),
        _number(counted, "tokens", "{:,.0f} tokens (prompts twice)"),
        _number(run, "tokens_per_second", "{:,.0f} tokens/s"),
        "" if history.peak_memory_gb is None else f"peak memory {history.peak_memory_gb:.2f} GB",
    ]
    if any(amounts):
        yield "trained on", ", ".join(filter(None, amounts))
    first = history.train[0] if history.train else {}
    if (start := metric_value(first, "loss")) is not None and (end := metric_value(last, "loss")) is not None:
        other = ", each of other pairs: compare the held-out ones" if history.evals else ""
        few = pairs_of_incomplete_step(history.train, history.values.get("launch.pairs_per_step"))
        of_few = "" if few is None else f" (of {few} pair{'s' * (few != 1)})"
        yield "loss", f"{start:.4f} at step {first['step']} → {end:.4f} at step {last['step']}{of_few}{other}"
        if terms := _loss_terms(history, first, last):
            yield " ", f"of which {terms}"
    best, final = history.best_eval, history.last_eval
    shown = [("base", history.base_eval), ("best after it", best), ("last", final)]
    if best.get("step") == final.get("step"):
        shown[1:] = [("last", final)]
    label = "held out"
    for name, record in shown:
        if text := _accuracy(history, name, record):
            yield label, text
            label = " "
    accuracy, pairs = metric_value(history.base_eval, "accuracy", "eval_"), history.effective_pairs(history.base_eval)
    if accuracy is not None and pairs is not None and (note := accuracy_limit_note(accuracy, pairs)):
        yield " ", note


def _epochs(record: dict[str, Any]) -> str:
    """`` in 2 epochs``: each of them counts its pairs."""
    epochs = record.get("epoch")
    return f" in {epochs:.2g} epochs" if is_number(epochs) and epochs > 1 else ""


def _loss_terms(history: RunHistory, first: dict[str, Any], last: dict[str, Any]) -> str:
    """The NLL and the odds ratio term of the first and the last loss, and whose tokens the NLL is of; empty in older runs."""
    weight, beta = history.values.get("training.nll_weight", 1), history.values.get("training.beta")
    nll, ratio = (
        [value for each in (first, last) if (value := metric_value(each, name)) is not None]
        for name in ("nll_loss", "log_odds_ratio")
    )
    if not (is_number(weight) and is_number(beta)) or len(nll) + len(ratio) < 4:
        return ""
    terms = []
    if weight:
        loss_on_prompt = history.values.get("training.loss_on_prompt", True)
        share = _prompt_share(history) if loss_on_prompt else ""
        terms.append(f"NLL term {_change(weight, nll)} of {nll_tokens(loss_on_prompt)}{share}")
    if beta:
        terms.append(f"beta × OR loss {_change(-beta, ratio)} (the preference: see accuracy and margin)")
    return ", ".join(terms)


def _change(factor: float, values: list[float]) -> str:
    return " → ".join(f"{abs(factor * value):.4f}" for value in values)


def _prompt_share(history: RunHistory) -> str:
    """`` (67% of these tokens are prompt)``: the NLL is of all tokens but the first, which nothing predicts."""
    lengths = object_or_empty(object_or_empty(history.data_report.get("lengths")).get("train"))
    prompt, chosen = (object_or_empty(lengths.get(part)).get("mean") for part in ("prompt", "chosen"))
    if not (is_number(prompt) and is_number(chosen) and prompt + chosen > 1):
        return ""
    return f" ({(prompt - 1) / (prompt - 1 + chosen):.0%} of these tokens are prompt)"


def next_commands(history: RunHistory, commands: dict[str, str], width: int | None = None) -> list[str]:
    """The commands that come next, the most important first; each with the run's path, ready to be copied.

    ``commands``: each without ``orpo`` and with RUN for the path, and what it does; empty where it does not apply. ``width``: where
    a line is longer, what the commands do is left out.
    """
    path = shlex.quote(short_path(str(history.path)))
    found = {f"  orpo {command.replace('RUN', path)}": purpose for command, purpose in commands.items() if purpose}
    longest = max(map(len, found), default=0)
    lines = [f"{command.ljust(longest)}  {purpose}" for command, purpose in found.items()]
    if width is not None and any(len(line) >= width for line in lines):
        lines = list(found)
    return ["next:", *lines] if lines else []


def _accuracy(history: RunHistory, name: str, record: dict[str, Any]) -> str:
    """``last, step 32: accuracy 0.81 [0.70, 0.89], margin 0.4321, loss 2.1234``."""
    accuracy, margin = (metric_value(record, each, "eval_") for each in ("accuracy", MARGIN))
    if accuracy is None:
        return ""
    interval = history.accuracy_interval(record)
    text = f"{name}, step {record['step']:.0f}: accuracy {accuracy:.3f}"
    text += "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    pairs = record.get("eval_pairs")
    text += f" of {pairs:.0f} pairs" if is_number(pairs) else ""
    text += "" if margin is None else f", margin {margin:.4f}"
    loss = metric_value(record, "loss", "eval_")
    return text if loss is None else f"{text}, loss {loss:.4f}"


def _number(record: dict[str, Any], key: str, form: str) -> str:
    value = record.get(key)
    return form.format(value) if is_number(value) else ""
