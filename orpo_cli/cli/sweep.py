"""`orpo sweep`: train many variants of a recipe and choose one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_recipe
from orpo_cli.cli.options import Json, Overrides, Quiet, Strict
from orpo_cli.errors import UsageError
from orpo_cli.report.console import Console
from orpo_cli.sweep.optuna_sampler import Sampler
from orpo_cli.sweep.scores import Metric
from orpo_cli.workflows.sweep import run_sweep
from orpo_cli.workflows.sweep_plan import SweepRequest, plan_sweep, planned_trials, prepare_trials


class ResumeChoice(StrEnum):
    """What happens where the directory has the sweep already."""

    auto = "auto"
    never = "never"


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", autocompletion=complete_recipe, help="Recipe file, or name of a shipped recipe."
        ),
    ],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V,V",
            help="Values of one key of the recipe, in YAML; repeatable. All combinations are trained.",
        ),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="KEY=LOW..HIGH[:log]",
            help="Range of one key, for --random; repeatable. With :log, its logarithm is drawn evenly.",
        ),
    ] = None,
    random: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Train N combinations that are drawn from --grid and --range."),
    ] = None,
    sampler: Annotated[
        Sampler,
        typer.Option(help="How --random draws. tpe learns from the trials before, and needs orpo-cli\\[optuna]."),
    ] = Sampler.RANDOM,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --random. The trials have the seed of the recipe.")] = 42,
    metric: Annotated[
        Metric, typer.Option(help="Metric of the held-out pairs that chooses the winner.")
    ] = Metric.ACCURACY,
    early_stop: Annotated[
        bool,
        typer.Option(
            "--early-stop/--no-early-stop",
            help="Stop a trial that is worse than the best one by more than chance explains.",
        ),
    ] = True,
    stop_from: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, metavar="FRACTION", help="Stop no trial before this fraction of its steps."),
    ] = 0.25,
    jobs: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Trials at the same time: one GPU each, or a share of the CPU's cores."),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Directory of the sweep; default: the output_dir of the recipe, and -sweep.",
        ),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        ResumeChoice, typer.Option(help="Continue the sweep in the directory, or refuse where there is one.")
    ] = ResumeChoice.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials, and start nothing.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", hidden=True)] = False,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe with many values of some keys, stop what is behind, and write the winner as a recipe.

    All values are validated before anything starts. The same command
    continues a sweep that was interrupted; with more values it extends it.
    The directory gets the runs, their logs, a report page and winner.yaml.

    [bold]Examples[/bold]

      orpo sweep my.yaml --grid training.beta=0.1,0.5 --grid lora.r=8,16
      orpo sweep my.yaml --random 20 --range training.learning_rate=1e-6..1e-4:log
      orpo sweep my.yaml --grid training.beta=0.1,0.2,0.5 --jobs 4 --metric margin
      orpo sweep my.yaml --grid training.seed=1,2,3 --no-early-stop --dry-run
    """
    console = Console(quiet=quiet, as_json=as_json)
    request = SweepRequest(
        recipe=recipe, overrides=overrides or (), grids=grid or (), ranges=ranges or (), random=random, sampler=sampler,
        seed=seed, metric=metric, early_stop=early_stop, stop_from=stop_from, jobs=jobs, output=output,
        resume=resume is ResumeChoice.auto, strict=strict,
    )  # fmt: skip
    if prepare and dry_run:
        raise UsageError("--prepare and --dry-run exclude each other.", remedy="Leave one out.")
    planned = plan_sweep(request, Console(log_only=True) if prepare else console)
    if prepare:
        console.document(prepare_trials(planned, console))
        return
    if dry_run:
        states = planned_trials(planned)
        for each in states:
            console.result(f"{each.trial.name}  ({each.state.value})")
        if planned.adaptive:
            console.note(f"{sampler.value} proposes the values of each trial from the scores of those before it")
        trials = [{"name": each.trial.name, "values": each.trial.values, "state": each.state.value} for each in states]
        console.document({"sweep": planned.sweep.root, "trials": trials})
        return
    result = run_sweep(planned, console)
    console.document(result)
    if result.winner is not None and result.winner["recipe"] is not None:
        console.result(result.winner["recipe"])
    result.raise_if_incomplete()
