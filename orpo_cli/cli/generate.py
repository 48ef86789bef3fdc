"""``orpo generate``: answers to prompts, base beside tuned with --compare."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.report.progress_counter import counting
from orpo_cli.secret_values import mask_secrets

if TYPE_CHECKING:
    from orpo_cli.evaluation.eval_target import EvalTarget, Variant
    from orpo_cli.evaluation.generation import SamplingParams

HELD_OUT_PROMPTS = 4

RunOrModel = Annotated[
    str, typer.Argument(metavar="RUN_OR_MODEL", help="Run directory, model folder, .gguf or hub id.")
]
Compare = Annotated[bool, typer.Option("--compare", help="The run's base and tuned model, side by side.")]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System message.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: the likeliest token each time. Above: sample.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest tokens of this share.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")]
ChatTemplate = Annotated[
    str | None, typer.Option(metavar="NAME", help="As model.chat_template in a recipe, for a model that is not a run.")
]


def command(
    run_or_model: RunOrModel,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What to ask; repeatable. - reads standard input.")
    ] = None,
    prompts_from: Annotated[
        str | None, typer.Option(metavar="FILE", help="A .txt with a prompt a line, or preference data.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, help=f"How many of FILE (default: all) or of the run's held-out prompts ({HELD_OUT_PROMPTS})."
        ),
    ] = None,
    compare: Compare = False,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    seed: Seed = None,
    system: System = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue TEXT as it is, without the chat template.")] = False,
    chat_template: ChatTemplate = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer prompts; without any, prompts that the run held out of training.

    [bold]Examples[/bold]

      orpo generate runs/quickstart --compare
      orpo generate runs/quickstart --compare --prompt "Why is the sky blue?"
      echo "Name three rivers." | orpo generate runs/quickstart --prompt - --json
      orpo generate runs/quickstart --prompts-from questions.txt --temperature 0.7 --seed 1
    """
    from orpo_cli.evaluation.eval_target import find_run, open_eval_target
    from orpo_cli.evaluation.prompts import check_prompts_available

    console = Console(quiet=quiet, as_json=as_json)
    sampling = sampling_of(max_new_tokens, temperature, top_p, seed, console)
    texts = _texts(prompt or [])
    run = find_run(run_or_model)
    refuse_compare_without_base(compare, run is not None, run_or_model)
    has_held_out = run is not None and run.read_plan().dataset.eval is not None
    check_prompts_available(run_or_model, has_held_out, texts=texts, file=prompts_from)
    _refuse_idle_options(texts, prompts_from, count, system, plain)
    if count is None and prompts_from is None:
        count = HELD_OUT_PROMPTS
    target = open_eval_target(run_or_model, chat_template=chat_template, note=console.note)
    document = _answered(target, texts, prompts_from, count, system, plain, sampling, compare, console)
    if run is not None and compare and not texts and prompts_from is None:
        atomic_write_text(run.samples, json.dumps(mask_secrets(document), indent=2, ensure_ascii=False) + "\n")
        console.note(f"wrote {run.samples}, which the model card shows")
    _show(document, console)
    console.document(document)


def sampling_of(
    max_new_tokens: int, temperature: float, top_p: float | None, seed: int | None, console: Console
) -> SamplingParams:
    """How to choose tokens. Raises UsageError for an option that would do nothing."""
    from orpo_cli.evaluation.generation import SamplingParams

    for name, value in (("--top-p", top_p), ("--seed", seed)):
        if value is not None and temperature == 0:
            raise UsageError(
                f"{name} does nothing at temperature 0: the likeliest token is taken.", remedy="Add --temperature 0.7."
            )
    if top_p == 0:
        raise UsageError("--top-p must be above 0.", remedy="Use --temperature 0 to take the likeliest token.")
    sampling = SamplingParams(max_new_tokens, temperature, 1.0 if top_p is None else top_p, seed).with_seed()
    if sampling.seed is not None and seed is None:
        console.note(f"sampling with --seed {sampling.seed}")
    return sampling


def refuse_compare_without_base(compare: bool, is_run: bool, name: str) -> None:
    """Raise UsageError where there is nothing to compare with."""
    if compare and not is_run:
        raise UsageError(
            f"--compare: {name} is not a run, so there is no base to compare with.", remedy="Give a run directory."
        )


def _texts(prompts: list[str]) -> list[str]:
    """The prompts with ``-`` read from standard input."""
    if prompts.count("-") > 1:
        raise UsageError("--prompt - reads all of standard input, and can be given once only.")
    return [sys.stdin.read().rstrip("\n") if text == "-" else text for text in prompts]


def _refuse_idle_options(
    texts: list[str], prompts_from: str | None, count: int | None, system: str | None, plain: bool
) -> None:
    from_rows = prompts_from is not None and not prompts_from.endswith(".txt")
    own_text = bool(texts) or (prompts_from is not None and not from_rows)
    if count is not None and texts and prompts_from is None:
        raise UsageError("-n does nothing with --prompt alone: every prompt is answered.", remedy="Leave -n out.")
    for name, is_given in (("--system", system is not None), ("--plain", plain)):
        if is_given and not own_text:
            raise UsageError(
                f"{name} does nothing here: prompts of preference data are asked as they are.",
                remedy="Use it with --prompt, or with a .txt in --prompts-from.",
            )
    if plain and system is not None:
        raise UsageError("--system needs the chat template that --plain leaves out.", remedy="Leave one of them out.")


def _answered(
    target: EvalTarget, texts: list[str], prompts_from: str | None, count: int | None, system: str | None, plain: bool,
    sampling: SamplingParams, compare: bool, console: Console,
) -> dict[str, Any]:  # fmt: skip
    from orpo_cli.evaluation.generation import generate_completions
    from orpo_cli.evaluation.prompts import PromptBuilder, collect_prompts

    if target.tokenizer.chat_template is None and not plain:
        console.note(f"{target.name} has no chat template: prompts are continued as they are")
        plain = True
    builder = PromptBuilder(target.tokenizer, plain=plain)
    prompts = collect_prompts(
        target, builder, texts=texts, file=prompts_from, count=count, system=system, note=console.note
    )
    variants: tuple[Variant, ...] = target.variants if compare else target.variants[-1:]
    rows: list[dict[str, Any]] = [{"prompt": prompt.text, "messages": prompt.messages} for prompt in prompts]
    with counting(console) as begin:
        for variant in variants:
            with target.use_variant(variant) as model:
                on_progress = begin(f"answering, {variant}")
                answers = generate_completions(
                    model,
                    target.tokenizer,
                    prompts,
                    sampling,
                    end_token_ids=builder.end_token_ids,
                    progress=on_progress,
                )
            for row, answer in zip(rows, answers, strict=True):
                row[variant] = {"text": answer.text, "tokens": answer.tokens, "finished": answer.finished}
    options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        options |= {"top_p": sampling.top_p, "seed": sampling.seed}
    return {"status": "answered", "name": target.name, "models": list(variants), **options, "answers": rows}


def _show(document: dict[str, Any], console: Console) -> None:
    """A table on a terminal; text in blocks elsewhere; bare text for one answer of one model."""
    from rich.table import Table
    from rich.text import Text

    variants, rows = document["models"], document["answers"]
    if len(variants) == len(rows) == 1:
        console.result(Text(_text(rows[0][variants[0]])))
    elif console.out.is_terminal:
        table = Table(show_lines=True, expand=True)
        for title in ("prompt", *variants):
            table.add_column(title, overflow="fold", ratio=1 if title == "prompt" else 2)
        for row in rows:
            table.add_row(Text(row["prompt"]), *(Text(_text(row[variant])) for variant in variants))
        console.result(table)
    else:
        for number, row in enumerate(rows, start=1):
            blocks = [_block("prompt", row["prompt"]), *(_block(variant, _text(row[variant])) for variant in variants)]
            console.result(Text("\n".join([*(["---"] if number > 1 else []), *blocks])))


def _text(answer: dict[str, Any]) -> str:
    return str(answer["text"]).strip() + ("" if answer["finished"] else " […]")


def _block(title: str, text: str) -> str:
    head = f"{title}:".ljust(8)
    return head + textwrap.indent(text, " " * 8).lstrip(" ")
