"""`orpo benchmark`: IFEval figures, answer files for AlpacaEval and MT-Bench, tasks of lm-evaluation-harness."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from orpo_cli.cli import options
from orpo_cli.report.console import Console, wrap_words
from orpo_cli.workflows.benchmark import result_folder, run_benchmark
from orpo_cli.workflows.benchmark_request import HARNESS, MAX_NEW_TOKENS, SEED, BenchmarkRequest

TASKS = (*MAX_NEW_TOKENS, f"{HARNESS}NAME")
_DEFAULT_TOKENS = ", ".join(f"{tokens} for {task}" for task, tokens in MAX_NEW_TOKENS.items())


def _complete_task(incomplete: str) -> list[str]:
    return [task for task in (*MAX_NEW_TOKENS, HARNESS) if task.startswith(incomplete)]


def command(
    run_or_model: options.RunOrModel,
    task: Annotated[
        str,
        typer.Option(metavar="TASK", help=f"{', '.join(TASKS[:-1])} or {TASKS[-1]}.", autocompletion=_complete_task),
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of questions. Default: the one on the hub.")
    ] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first N questions.")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"Maximum length of an answer, in tokens. Default: {_DEFAULT_TOKENS}."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Sample the answers. Default: greedy; mt_bench: by category.")
    ] = None,
    top_p: options.TopP = None,
    seed: Annotated[int | None, typer.Option(min=0, help=f"Seed of sampled answers. Default: {SEED}.")] = None,
    system: options.System = None,
    plain: Annotated[bool, typer.Option("--plain", help="Ask without the chat template.")] = False,
    chat_template: options.ChatTemplate = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Folder with further tasks for {HARNESS}NAME.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results. Default: in the run.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a model on a benchmark, or write its answers for a judge.

    ifeval gives four accuracies. alpaca_eval and mt_bench give files for
    the tools of these benchmarks. lm_eval:NAME runs a task of
    lm-evaluation-harness. A run is measured as base and tuned model, and the
    report and the model card show the result. Repeat an interrupted command
    to continue it; a task lm_eval:NAME starts again.

    [bold]Examples[/bold]

      orpo benchmark runs/quickstart --task ifeval --max-samples 100
      orpo benchmark runs/quickstart --task alpaca_eval
      orpo benchmark runs/quickstart --task lm_eval:arc_easy
      orpo benchmark org/model --task ifeval --output results
    """
    console = Console(quiet=quiet, as_json=as_json)
    request = BenchmarkRequest(
        task=task,
        data=data,
        max_samples=max_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        system=system,
        plain=plain,
        chat_template=chat_template,
        include_path=include_path,
        output=output,
    )
    document = run_benchmark(run_or_model, request, console)
    folder = result_folder(run_or_model, request)
    console.result(_table(document))
    for line in (*_legend(document), *_next_steps(document, folder)):
        console.result(wrap_words(line, console.out.width))
    console.document(document)


def _table(document: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from orpo_cli.report.benchmark_view import benchmark_table, benchmark_title

    titles, rows = benchmark_table(document)
    table = Table(title=Text(benchmark_title(document)))
    table.add_column(titles[0])
    for title in titles[1:]:
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
    return table


def _legend(document: dict[str, Any]) -> list[str]:
    from orpo_cli.report.benchmark_view import benchmark_settings

    shown = [f"{name}: {text}" for name, text in benchmark_settings(document) if name not in ("versions", "date")]
    if document["change"]:
        shown.append(
            "in brackets: 95% confidence intervals (Wilson for accuracies); won, lost: answers that only the tuned or only "
            "the base model gets right; p: exact McNemar test"
        )
    return shown


def _next_steps(document: dict[str, Any], folder: Path) -> list[str]:
    """The commands of the judges that read the answer files."""
    files = [folder / name for name in document.get("files", {}).values()]
    if document["task"] == "alpaca_eval":
        return [f"judge: {shlex.join(['alpaca_eval', '--model_outputs', str(path)])}" for path in files]
    if document["task"] == "mt_bench":
        names = [path.stem for path in files]
        return [
            f"judge: copy {shlex.quote(str(folder / 'model_answer'))} to fastchat/llm_judge/data/mt_bench, and there "
            f"{shlex.join(['python', 'gen_judgment.py', '--model-list', *names])}"
        ]
    return []
