"""Smoke-run workflow (`orpo train --smoke`): the training pipeline of a recipe on a tiny random model, for two steps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo_cli import interruption
from orpo_cli.errors import HubError, Interrupted
from orpo_cli.planning.plan import Plan
from orpo_cli.planning.smoke_plan import PAIRS_PER_SOURCE, smoke_plan
from orpo_cli.recipe.schema import LaunchSection
from orpo_cli.recipe.source.rerunnable_recipe import rerunnable_recipe
from orpo_cli.report.console import Console
from orpo_cli.report.plan_view import plan_lines
from orpo_cli.run_creation import create_run
from orpo_cli.rundir import RecipeTexts
from orpo_cli.temporary_directory import TemporaryDirectory
from orpo_cli.workflows.plan import build_plan, load_recipe_reporting
from orpo_cli.workflows.train import recipe_with_overrides
from orpo_cli.workflows.train_plan import train_plan

CACHE_SWITCHES = ("ORPO_PAIR_CACHE", "ORPO_SCORE_CACHE")
MAX_PAIRS = 8  # the shortest ones, so that a large vocabulary fits a small machine


def smoke_recipe(recipe: str, overrides: Sequence[str] | None, console: Console, *, strict: bool) -> dict[str, Any]:
    """Run data, a tiny model, two steps, checkpoint, result, and merge where there is an adapter.

    Returns the document of `orpo train --smoke --json`; ``replaced`` lists what the run did not take from the recipe, each as
    "name: by what and why". Works in a temporary folder, which is removed when the run passes, and kept for a look when it
    fails. Raises the errors of a training.
    """
    from orpo_cli.merging.merge import merge
    from orpo_cli.merging.merge_target import MergeRequest
    from orpo_cli.model.model_source import ModelSource
    from orpo_cli.model.tiny_model import save_tiny_base

    loaded = load_recipe_reporting(recipe, overrides, console, strict=strict)
    # One process on this machine: the plan of several would assume their GPUs.
    loaded = replace(loaded, recipe=loaded.recipe.model_copy(update={"launch": LaunchSection()}))
    plan, source, *_ = build_plan(loaded, console, to_train=False, strict=strict)
    started = time.monotonic()
    with _temporary_folder(console) as folder:
        tiny = save_tiny_base(source, folder / "base")
        pairs, pair_changes = _replace_unreachable_pairs(plan, folder, console)
        replaced = [*tiny.replaced, *pair_changes]
        for change in replaced:  # the plan has warned of a model that the hub does not give
            console.note(f"--smoke: {change.removesuffix(f' {tiny.hub_message}')}")
        tiny_plan = smoke_plan(
            plan,
            base=folder / "base",
            layers=tiny.config.get_text_config().num_hidden_layers,
            modules=tiny.modules if tiny.is_guess else None,
            pairs=pairs,
            output_dir=folder / "run",
        )
        for path, value, _, reason in plan_lines(tiny_plan.to_document()):
            if reason.startswith("--smoke"):
                console.note(f"  {path} = {value}  ({reason})")
        texts = RecipeTexts(rerunnable_recipe(loaded), recipe_with_overrides(loaded))
        with create_run(tiny_plan, texts) as rundir, _without_caches():
            train_plan(tiny_plan, ModelSource(tiny_plan.model), rundir, None, console, max_pairs=MAX_PAIRS)
        if plan.lora is not None:
            console.note(merge(MergeRequest(rundir.root, held_out_pairs=0), note=console.note).summary_lines()[0])
        run = rundir.read_run()
    return {
        "status": "ok",
        "name": plan.name,
        **{name: run[name] for name in ("steps", "final_metrics", "final_evaluation")},
        "replaced": replaced,
        "seconds": round(time.monotonic() - started, 1),
    }


@contextmanager
def _temporary_folder(console: Console) -> Iterator[Path]:
    directory = TemporaryDirectory("smoke")
    try:
        yield directory.path
    except (Interrupted, KeyboardInterrupt):
        directory.remove()
        raise Interrupted(f"{interruption.interrupted()}: the smoke run is removed.") from None
    except BaseException:
        directory.keep()
        console.warn(f"the files of the smoke run are kept in {directory.path}")
        raise
    directory.remove()
    console.note(f"removed {directory.path}")


def _replace_unreachable_pairs(plan: Plan, folder: Path, console: Console) -> tuple[Path | None, list[str]]:
    """A folder of synthetic pairs where the hub does not give a source of the recipe, else None; and what is replaced."""
    from orpo_cli.data.sources.source import open_source
    from orpo_cli.data.synthetic_pairs import write_synthetic_pairs

    held_out = plan.dataset.eval if isinstance(plan.dataset.eval, list) else []
    try:
        for source in (*plan.dataset.train, *held_out):
            with open_source(source, source.path, console.note):
                pass
    except HubError as error:
        return write_synthetic_pairs(folder / "pairs", PAIRS_PER_SOURCE), [
            f"pairs: {PAIRS_PER_SOURCE} synthetic ones. {error.message}"
        ]
    return None, []


@contextmanager
def _without_caches() -> Iterator[None]:
    """Switch the caches of prepared pairs and of scores off: those of a smoke run are of no use later."""
    before = {name: os.environ.get(name) for name in CACHE_SWITCHES}
    os.environ.update(dict.fromkeys(CACHE_SWITCHES, "0"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
