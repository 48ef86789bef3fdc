"""Evaluation workflow (`orpo eval`): pairs, model, scores and their summary."""

from __future__ import annotations

from typing import Any

from orpo_cli.report.console import Console
from orpo_cli.report.progress import show_progress


def evaluate_model(
    model: str,
    console: Console,
    *,
    data: str | None = None,
    max_samples: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    chat_template: str | None = None,
) -> dict[str, Any]:
    """Score preference pairs with a run (its base and its tuned model) or with a single model.

    Returns the document of `orpo eval --json`. The pairs are those of ``data``, by default those that the run held out of
    training; then the document is also written to the run, as evaluation.json.
    """
    from orpo_cli.evaluation.eval_target import find_run, open_eval_target
    from orpo_cli.evaluation.evaluate import covers_all_held_out, evaluate
    from orpo_cli.evaluation.held_out_pairs import check_pairs_available, load_held_out_pairs

    run = find_run(model)
    check_pairs_available(run.read_plan() if run else None, data)
    target = open_eval_target(model, chat_template=chat_template, note=console.note)
    pairs = load_held_out_pairs(target, data=data, max_samples=max_samples, max_length=max_length, note=console.note)
    if pairs.same_as_in_training is False:
        console.warn(
            "the held-out pairs are not those of the training: the data, or how it is read, has changed since then."
        )
    with show_progress(console) as begin_count:
        document = evaluate(
            target, pairs, batch_size=batch_size, progress=lambda variant: begin_count(f"scoring answers, {variant}")
        )
    if target.rundir is not None:
        written = covers_all_held_out(pairs)
        console.note(
            f"wrote {target.rundir.evaluation}"
            if written
            else "evaluation.json not written: these are not all held-out pairs of the run"
        )
    return document
