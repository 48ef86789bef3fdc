"""`orpo generate`: answers to prompts, of one model or of base and tuned model."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from orpo_cli.cli import options
from orpo_cli.cli.choices import BackendChoice
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.workflows.generate import (
    HELD_OUT_PROMPTS,
    GenerateRequest,
    generate_answers,
    make_sampling,
    record_samples,
)


def command(
    run_or_model: options.RunOrModel,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Prompt; repeatable. - reads standard input.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Prompts: .txt with one per line; rows with prompt or messages; preference data; a recipe.",
        ),
    ] = None,
    prompts_from: Annotated[str | None, typer.Option(hidden=True, help="Earlier name of --prompts.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="JSON Lines file for the answers. Repeat the command to continue."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            help=f"Number of prompts from FILE (default: all) or from the held-out pairs of the run ({HELD_OUT_PROMPTS}; "
            "all with --output).",
        ),
    ] = None,
    compare: options.Compare = False,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    system: options.System = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue TEXT as it is, without the chat template.")] = False,
    chat_template: options.ChatTemplate = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Prompts per batch. Default: up to 32, fewer if they are long."),
    ] = None,
    backend: Annotated[
        BackendChoice, typer.Option(help="Library that generates: vllm on a GPU, llama-cpp for a .gguf file.")
    ] = BackendChoice.transformers,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer prompts: those given, or prompts from the held-out pairs of the run.

    The chat template is that of the training, unless --plain is given.

    [bold]Examples[/bold]

      orpo generate runs/quickstart --compare
      orpo generate runs/quickstart --compare --prompt "Why is the sky blue?"
      echo "Name three rivers." | orpo generate runs/quickstart --prompt - --json
      orpo generate runs/quickstart --prompts ask.txt --temperature 0.7 --seed 1
      orpo generate runs/quickstart --compare --prompts ask.jsonl -o answers.jsonl
    """
    console = Console(quiet=quiet, as_json=as_json)
    output = None if output is None else output.expanduser()
    sampling = make_sampling(max_new_tokens, temperature, top_p, seed, console, output)
    request = GenerateRequest(
        _read_prompts(prompt or []),
        prompts if prompts is not None else prompts_from,
        count,
        system,
        plain,
        compare,
        chat_template,
        output,
        batch_size,
        backend.value,
    )
    document = generate_answers(run_or_model, request, sampling, console)
    if output is None:
        print_answers(document, console)
        console.document(document)
    else:  # the file has the answers
        console.document({**document, "answers": len(document["answers"])})
    record_samples(run_or_model, request, document, console)  # after the output: the disk may be full or read-only


def _read_prompts(prompts: list[str]) -> list[str]:
    """The prompts, with ``-`` read from standard input."""
    if prompts.count("-") > 1:
        raise UsageError("--prompt - reads all of standard input, and can be given once only.")
    return [sys.stdin.read().rstrip("\n") if text == "-" else text for text in prompts]


def print_answers(document: dict[str, Any], console: Console) -> None:
    """Print only the text where there is one answer of one model, a view on a terminal, and blocks of text elsewhere."""
    from orpo_cli.report.answers_view import answer_text, answers_view, prompt_text

    variants, rows = document["models"], document["answers"]
    if len(variants) == len(rows) == 1:
        console.result(answer_text(rows[0][variants[0]]))
    elif console.out.is_terminal:
        for renderable in answers_view(document, console.out.width):
            console.result(renderable)
    else:
        for number, row in enumerate(rows, start=1):
            texts = {"prompt": prompt_text(row), **{variant: answer_text(row[variant]) for variant in variants}}
            blocks = [_block(title, text) for title, text in texts.items()]
            console.result("\n".join([*(["---"] if number > 1 else []), *blocks]))
    if not all(row[variant]["finished"] for row in rows for variant in variants):
        console.note("[…] marks an answer that reached the limit of new tokens, --max-new-tokens")


def _block(title: str, text: str) -> str:
    return f"{title}:".ljust(8) + textwrap.indent(text, " " * 8).lstrip(" ")
