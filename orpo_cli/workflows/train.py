"""Training workflow: plan, pairs, model, trainer, result and model card, in a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo_cli.errors import UsageError
from orpo_cli.plan.plan import Plan
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.recipe.source.composed_recipe import composed_text
from orpo_cli.report.console import Console
from orpo_cli.report.plan_view import plan_lines
from orpo_cli.rundir import FINISHED, RunDir
from orpo_cli.secret_values import mask_secrets

if TYPE_CHECKING:
    from orpo_cli.training.train import Outcome


def open_run(loaded: LoadedRecipe, plan: Plan, resume: str, console: Console) -> tuple[RunDir, Path | None]:
    """The run directory, new or existing, and the checkpoint to resume from. Raises UsageError where neither is right."""
    from orpo_cli.training.resume import checkpoint_to_resume, take_over

    existing = RunDir(Path(plan.output_dir))
    if resume == "never" or not existing.is_run():
        if resume not in ("never", "auto"):
            raise UsageError(
                f"--resume {resume}: {existing.root} holds no run.", remedy="Leave --resume out to begin one."
            )
        return RunDir.create(plan, recipe_with_overrides(loaded), composed_text(loaded)), None
    if existing.read_run()["status"] == FINISHED and resume == "auto":
        return existing, None
    checkpoint = checkpoint_to_resume(existing, plan, resume)
    if checkpoint is None:
        console.note(f"{existing.root} has no checkpoint yet: starting over")
        existing.discard()
        return RunDir.create(plan, recipe_with_overrides(loaded), composed_text(loaded)), None
    console.note(f"going on from {checkpoint}")
    take_over(existing, plan)
    return existing, checkpoint


def train_plan(
    plan: Plan, rundir: RunDir, checkpoint: Path | None, console: Console, *, shortest: int | None = None
) -> Outcome:
    """Prepare, then train; on the ``shortest`` pairs alone where a number is given.

    What fails before the first step of a new run leaves no directory.
    """
    from orpo_cli.card.model_card import write_card
    from orpo_cli.data.prepare import prepare
    from orpo_cli.model.added_tokens import grow
    from orpo_cli.model.base_model import load_base
    from orpo_cli.model.tokenizer import load_tokenizer
    from orpo_cli.report.live_display import TrainingDisplay
    from orpo_cli.training.provenance import provenance
    from orpo_cli.training.train import train

    pushing = None
    try:
        _report_plan(plan, console)
        if plan.training.get("push_to_hub"):
            from orpo_cli.hub.push_during_training import TrainingPush

            pushing = TrainingPush(plan, rundir, console.note, console.problem)
            pushing.check()
        tokenizer = load_tokenizer(plan.model, console.note)
        data = prepare(
            plan.dataset,
            tokenizer,
            max_length=plan.training["max_length"],
            max_prompt_length=_prompt_length(plan),
            note=console.note,
            enough=plan.pairs_in_all(),
        )
        rundir.data_report.write_text(
            json.dumps(mask_secrets(data.report.as_dict()), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        for line in data.report.lines():
            console.note(line)
        if shortest is not None:
            data = data.shortest(shortest)
            console.note(f"training on the {len(data.train)} shortest pairs")
        model = load_base(plan.model, plan.quantization, plan.device)
        grow(model, tokenizer)
        rundir.write_run(**provenance(model, data.report))
    except BaseException:
        if checkpoint is None and rundir.trained() is None:
            rundir.discard()
        raise
    finished = False
    try:
        with TrainingDisplay(console) as display:
            outcome = train(plan, rundir, model, tokenizer, data, display, checkpoint, [pushing] if pushing else [])
        finished = True
    finally:
        if pushing is not None:
            pushing.settle(interrupted=not finished)
    write_card(rundir)
    if pushing is not None:
        pushing.push_result()
    return outcome


def _prompt_length(plan: Plan) -> int:
    assert plan.dataset.max_prompt_length is not None, "the plan decides it"
    return plan.dataset.max_prompt_length


def _report_plan(plan: Plan, console: Console) -> None:
    console.note(
        f"{plan.name}: {plan.model.model_name_or_path} on {plan.device} in {plan.model.dtype}, run in {plan.output_dir}"
    )
    for path, value, origin, reason in plan_lines(plan.as_document()):
        if origin == "decided":
            console.note(f"  {path} = {value}  ({reason})")


def recipe_with_overrides(loaded: LoadedRecipe) -> str:
    """The recipe as written, with the overrides listed on top."""
    head = "".join(f"# --set {override}\n" for override in loaded.overrides)
    return head + loaded.text


def run_document(rundir: RunDir) -> dict[str, Any]:
    """The document that ``orpo train --json`` prints."""
    run = rundir.read_run()
    names = ("steps", "seconds", "final_metrics", "final_evaluation", *(["hub"] if "hub" in run else []))
    return {
        "status": run["status"],
        "run": str(rundir.root),
        "result": str(rundir.result()),
        **{name: run.get(name) for name in names},
    }
