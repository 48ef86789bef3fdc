"""`orpo eval`: preference accuracy and margins on held-out pairs, of base and tuned model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orpo_cli.cli.options import ChatTemplate, Json, Quiet, RunOrModel
from orpo_cli.report.console import Console, wrap_words
from orpo_cli.report.progress import show_progress, show_status
from orpo_cli.workflows.remote_code import warn_about_remote_code

METRICS = (
    ("rewards/accuracies", "accuracy", "{:.3f}"),
    ("margin", "margin", "{:.4f}"),
    ("log_odds_chosen", "log odds", "{:.3f}"),
    ("logps/chosen", "log p chosen", "{:.3f}"),
    ("logps/rejected", "log p rejected", "{:.3f}"),
    ("nll_loss", "NLL", "{:.3f}"),
)


def command(
    run_or_model: RunOrModel,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Use these preference pairs instead: file, folder or hub dataset."),
    ] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first N pairs.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Answers scored at once. Default: depends on their length.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Maximum length of a pair in tokens; only for a model that is not a run. Default: 1024.",
        ),
    ] = None,
    chat_template: ChatTemplate = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Score the base also where its scores of these pairs are in the cache.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on preference pairs: how often it prefers the chosen completion, and by how much.

    A run is evaluated on its held-out pairs, base and tuned model, and the
    result is written to its evaluation.json. Any other model needs --data.

    [bold]Examples[/bold]

      orpo eval runs/quickstart
      orpo eval runs/quickstart --data other-pairs.jsonl --json
      orpo eval Qwen/Qwen3-0.6B --data pairs.jsonl --max-samples 200
    """
    from orpo_cli.evaluation.eval_target import find_run, open_eval_target
    from orpo_cli.evaluation.evaluate import evaluate, record_evaluation
    from orpo_cli.evaluation.held_out_pairs import check_pairs_available, load_held_out_pairs
    from orpo_cli.training.packed_scoring import make_scorer

    console = Console(quiet=quiet, as_json=as_json)
    run = find_run(run_or_model)
    check_pairs_available(run.read_plan() if run else None, data, run_or_model)
    warn_about_remote_code(run_or_model, console)
    with show_status(console) as status:
        status("loading the model")
        target = open_eval_target(run_or_model, chat_template=chat_template, note=console.note)
        status("reading the pairs")
        pairs = load_held_out_pairs(
            target, data=data, max_samples=max_samples, max_length=max_length, note=console.note
        )
    if pairs.same_as_in_training is False:
        console.warn(
            "the held-out pairs are not those of the training: the data, or how it is read, has changed since then."
        )
    with show_progress(console) as begin_count:
        document = evaluate(
            target,
            pairs,
            batch_size=batch_size,
            progress=lambda variant: begin_count(f"scoring answers, {variant}"),
            scorer=make_scorer(target.plan, run.read_run() if run else {}),
            recompute=recompute,
        )
    for variant, source in document["reused"].items():
        console.note(
            f"{variant}: scores of {source['computed']}, computed by {source['by']} (--recompute computes them again)"
        )
    console.result(_table(document))
    for text in (*document["findings"], _legend(document)):
        console.result(wrap_words(text, console.out.width))
    console.document(document)
    if run is not None:  # after the output: the disk may be full or read-only
        not_written = "evaluation.json not written: these are not all held-out pairs of the run"
        console.note(f"wrote {run.evaluation}" if record_evaluation(run, document) else not_written)


def _table(document: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    change = document["change"]
    data = "held-out pairs" if document["data"] == "held-out" else f"pairs from {document['data']}"
    table = Table(
        title=Text(f"{document['pairs']} {data}"),
    )
    table.add_column("")
    for name in (*document["models"], *(["change"] if change else [])):
        table.add_column(name, justify="right")
    for metric, title, form in METRICS:
        cells = [_cell(values, metric, form) for values in document["models"].values()]
        if change:
            cells.append(_cell(change, metric, form.replace(":", ":+")))
            if metric == "rewards/accuracies":
                cells[-1] += f"\n{change['pairs_won']} won, {change['pairs_lost']} lost\np {change['p_value']:.2g}"
        table.add_row(title, *(Text(cell, justify="right") for cell in cells))
    return table


def _legend(document: dict[str, Any]) -> str:
    won = (
        "won, lost: pairs that only the tuned, only the base model prefers rightly; p: of an exact McNemar test (below 0.05 "
        "such a difference is rare between models that are equally accurate); "
        if document["change"]
        else ""
    )
    return (
        "accuracy: fraction of pairs whose chosen completion is more likely per token than the rejected one; log p: nats per token; "
        "margin: log p chosen - log p rejected, without beta; log odds: the log odds ratio of chosen and rejected completion; "
        f"NLL: over prompt and chosen completion; {won}in brackets: 95% confidence intervals (accuracy: Wilson; margin: Student's t)"
    )


def _cell(values: dict[str, Any], metric: str, form: str) -> str:
    interval = values["intervals"].get(metric)
    text = form.format(values[metric])
    return text if interval is None else f"{text}\n[{form.format(interval[0])}, {form.format(interval[1])}]"
