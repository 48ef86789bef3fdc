"""``orpo train --smoke``: the whole road of a recipe on a model shrunk to nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orpo_cli.errors import HubError, Interrupted
from orpo_cli.plan.plan import Plan
from orpo_cli.plan.smoke_plan import PAIRS, Replacements, smoke_plan
from orpo_cli.recipe.load import LoadedRecipe
from orpo_cli.report.console import Console
from orpo_cli.rundir import RunDir
from orpo_cli.workflows.train import recipe_with_overrides, train_plan

TRAINED_ON = 8  # pairs: the shortest, so that a large vocabulary fits a small machine


def smoke(loaded: LoadedRecipe, plan: Plan, console: Console) -> None:
    """Try ``plan`` out: data, a small model, two steps, checkpoint, result, and merge where there is an adapter.

    Everything lies in a temporary folder, removed when all went well and kept to look at when not. Raises as a run does.
    """
    from orpo_cli.model.tiny_model import save_small_base

    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="orpo-smoke-"))
    done = False
    try:
        small, replaced = save_small_base(plan.model, folder / "base")
        pairs, why = _pairs_instead(plan, folder, console)
        for each in [*replaced, *why]:
            console.note(f"--smoke: {each}")
        layers = small.get_text_config().num_hidden_layers
        small_plan = smoke_plan(plan, Replacements(folder / "base", layers, pairs, folder / "run"))
        rundir = RunDir.create(small_plan, recipe_with_overrides(loaded))
        with _pairs_not_kept():
            outcome = train_plan(small_plan, rundir, None, console, shortest=TRAINED_ON)
        if plan.lora is not None:
            _merge(rundir, console)
        run = rundir.read_run()
        done = True
    except (Interrupted, KeyboardInterrupt):
        done = True
        raise Interrupted("interrupted; the smoke run is removed.") from None
    finally:
        if done:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.warn(f"what the smoke run left is kept in {folder}")
    seconds = time.monotonic() - began
    console.note(f"removed {folder}")
    stood_in = ", ".join(each.partition(":")[0] for each in (*replaced, *why))
    console.result(f"{plan.name}: smoke run passed, {outcome.steps} steps in {seconds:.0f} s, not its own: {stood_in}")
    console.document(_document(plan, run, [*replaced, *why], seconds))


def _pairs_instead(plan: Plan, folder: Path, console: Console) -> tuple[Path | None, list[str]]:
    """A folder of made-up pairs where a source of the recipe is on the hub, and the hub silent; else None."""
    from orpo_cli.data.sources.source import opened
    from orpo_cli.data.synthetic_pairs import write_made_up_pairs

    held_out = plan.dataset.eval if isinstance(plan.dataset.eval, list) else []
    try:
        for source in (*plan.dataset.train, *held_out):
            with opened(source, source.path, console.note):
                pass
    except HubError as error:
        return write_made_up_pairs(folder / "pairs", PAIRS), [f"pairs: {PAIRS} made-up ones. {error.message}"]
    return None, []


@contextmanager
def _pairs_not_kept() -> Iterator[None]:
    """Leave the cache of prepared pairs alone: nothing of a smoke run is worth keeping."""
    before = os.environ.get("ORPO_PAIR_CACHE")
    os.environ["ORPO_PAIR_CACHE"] = "0"
    try:
        yield
    finally:
        os.environ.pop("ORPO_PAIR_CACHE")
        if before is not None:
            os.environ["ORPO_PAIR_CACHE"] = before


def _merge(rundir: RunDir, console: Console) -> None:
    from orpo_cli.merge.merge import merge

    result = merge(rundir.root, held_out_pairs=0, note=console.note)
    console.note(result.lines()[0])


def _document(plan: Plan, run: dict[str, Any], replaced: list[str], seconds: float) -> dict[str, Any]:
    return {
        "status": "ok",
        "name": plan.name,
        "steps": run["steps"],
        "final_metrics": run["final_metrics"],
        "final_evaluation": run["final_evaluation"],
        "replaced": replaced,
        "seconds": round(seconds, 1),
    }
