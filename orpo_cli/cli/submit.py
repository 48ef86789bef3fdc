"""`orpo submit`: train on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.cli.completion import complete_recipe
from orpo_cli.cli.options import Force, Json, Overrides, Quiet, Strict
from orpo_cli.errors import UsageError
from orpo_cli.launch.train_job import TrainJob
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.plan import load_recipe_reporting
from orpo_cli.workflows.submit import (
    Submission,
    Target,
    next_command,
    submission_text,
    submit_to_slurm,
    write_task_file,
)


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", autocompletion=complete_recipe, help="Recipe file, or name of a shipped recipe."
        ),
    ],
    to: Annotated[Target, typer.Option("--to", help="Cluster or tool that runs the training.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script or task file; write and submit nothing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Task file to write; not for slurm. Default: NAME.sky.yaml and the like.",
        ),
    ] = None,
    force: Force = False,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on a cluster: submit a job to Slurm, or write a task file.

    For Slurm, the script and its log are in logs/ of the run directory. Before
    the time limit the job saves a checkpoint and puts itself back into the
    queue, until the training has finished. For SkyPilot, dstack and Kubernetes,
    the task file is written and not submitted. Settings: launch.slurm,
    launch.skypilot, launch.dstack, launch.kubernetes.

    [bold]Examples[/bold]

      orpo submit my.yaml --to slurm --dry-run
      orpo submit my.yaml --to slurm --set launch.slurm.partition=gpu
      orpo submit my.yaml --to skypilot -o my.sky.yaml
    """
    console = Console(quiet=quiet, as_json=as_json)
    if to is Target.SLURM and output is not None:
        raise UsageError(
            "--output does nothing with --to slurm: the script is written into logs/ of the run.",
            remedy="Leave it out, or redirect the output of --dry-run.",
        )
    if dry_run and (output is not None or force):
        raise UsageError("--dry-run writes no file.", remedy="Leave out --output and --force, or --dry-run.")
    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    job = TrainJob.from_recipe(loaded, recipe)
    if dry_run:
        submission = Submission(to, submission_text(job, to))
        if not as_json:
            console.exact(submission.text)
    elif to is Target.SLURM:
        submission = submit_to_slurm(job, console)
        console.result(str(submission.job_id))
        log = RunDir(loaded.output_dir).logs / f"slurm-{submission.job_id}.log"
        console.note(f"submitted job {submission.job_id}; its log is {log}")
    else:
        submission = write_task_file(job, to, output, overwrite=force)
        assert submission.file is not None
        console.result(f"wrote {submission.file}")
        console.note(f"Next:\n  {next_command(job, to, submission.file)}")
    console.document(
        {
            "status": "ok",
            "to": to.value,
            "dry_run": dry_run,
            "job_id": submission.job_id,
            "path": submission.file,
            "text": submission.text,
            "output_dir": loaded.output_dir,
        }
    )
