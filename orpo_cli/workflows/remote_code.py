"""Warning about model code for the commands that load the model of a run."""

from __future__ import annotations

from pathlib import Path

from orpo_cli.recipe.remote_code import remote_code_problem
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir


def warn_about_remote_code(target: str | Path, console: Console) -> None:
    """Print the warning if ``target`` is a run whose plan trusts the code of its model."""
    rundir = RunDir.find(Path(target).expanduser())
    if rundir is None:
        return
    model = rundir.read_plan().model
    folder = Path(model.model_name_or_path).expanduser() / model.subfolder
    problem = remote_code_problem(model, folder if folder.is_dir() else None)
    if problem is not None:
        console.problem(problem)
