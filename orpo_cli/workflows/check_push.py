"""Push-check workflow (`orpo push-to-hub --check`): of a run, or of a recipe before its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orpo_cli.errors import UsageError
from orpo_cli.hub.check import PushCheck, check_before_training, check_run
from orpo_cli.hub.push import PushRequest
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.plan import load_recipe_reporting


def check_push(run_or_recipe: str, request: PushRequest, console: Console) -> PushCheck:
    """Ask the hub whether it would accept the push. Raises HubRefused, HubError, UsageError or the errors of a recipe."""
    if Path(run_or_recipe).is_dir():
        return check_run(RunDir.open(run_or_recipe), request, console.note)
    if request.include or request.exclude:
        raise UsageError(
            "--include and --exclude need the files of a run, and this is a recipe.", remedy="Leave them out."
        )
    loaded = load_recipe_reporting(run_or_recipe, None, console, strict=False)
    recipe = loaded.recipe
    name, training = recipe.model.model_name_or_path, recipe.training
    branch = request.revision or (training.hub_revision if training.push_to_hub else None)
    return check_before_training(
        RunDir(loaded.output_dir),
        replace(request, revision=branch),
        recipe.hub,
        base=str(loaded.local_path("model.model_name_or_path", name) or name),
        trains_adapter=recipe.lora is not None,
        note=console.note,
    )
