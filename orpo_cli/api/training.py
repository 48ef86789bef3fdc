"""Training in Python: a recipe, with data and models that are in memory where the program has them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orpo_cli import interruption
from orpo_cli.api.arguments import Overrides, allowed_changes, callback_objects, resume_text
from orpo_cli.api.dataset_messages import naming_datasets
from orpo_cli.api.in_memory import save_objects
from orpo_cli.api.quiet import console_of_call, environment_variable
from orpo_cli.api.recipe import RecipeSource, resolve_recipe
from orpo_cli.api.run import Run
from orpo_cli.run_attempts import BEGAN_VARIABLE

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from orpo_cli.training.resume import Input


def train(
    recipe: RecipeSource,
    *,
    overrides: Overrides = (),
    train_dataset: Dataset | None = None,
    eval_dataset: Dataset | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
    resume: str | Path = "never",
    allow_changed: Sequence[Input] = (),
    strict: bool = False,
    verbose: bool = False,
) -> Run:
    """Train a recipe, and return its finished run.

    ``recipe``: a path, the name of a shipped recipe, a ``Recipe``, or a mapping of sections. ``overrides``: such as
    ``["training.beta=0.2"]`` or ``{"training.beta": 0.2}``. ``train_dataset`` and ``eval_dataset`` replace the sources of ``dataset``, whose options
    (such as ``columns``) they have: rows of any format that recipes read. ``model`` (in full precision, with its ``tokenizer``) replaces model.model_name_or_path; it is saved to the cache
    and loaded from there, so that the run can be resumed and merged, and the object stays as it is. ``callbacks``: a list of
    objects or classes, as for transformers' Trainer. ``resume``: ``never``, ``auto`` or a checkpoint. ``verbose``: print what ``orpo train`` prints.

    Ctrl-C in the main thread saves a checkpoint and raises Interrupted. Raises RecipeError, UsageError, DataError, MachineError,
    HubError, RunError: the errors of the command.
    """
    from orpo_cli.workflows.train import train_recipe

    began = environment_variable(BEGAN_VARIABLE, str(time.time()))  # the process may be older
    with began, console_of_call(verbose) as console, _handling_signals():
        checkpoint, changes, objects = resume_text(resume), allowed_changes(allow_changed), callback_objects(callbacks)
        saved = save_objects(train_dataset, eval_dataset, model, tokenizer)
        loaded = resolve_recipe(recipe, overrides, strict=strict, saved=saved)
        with naming_datasets(saved):
            rundir = train_recipe(
                loaded,
                None,
                console,
                resume=checkpoint,
                strict=strict,
                allow_changed=changes,
                callbacks=objects,
            )
    return Run(rundir.root)


@contextmanager
def _handling_signals() -> Iterator[None]:
    """Context in which a signal lets a training save a checkpoint; the handlers from before are restored."""
    restore = interruption.install()
    interruption.command_started()
    try:
        yield
    finally:
        interruption.forget()  # in another thread than the main one, restore() does nothing
        restore()
