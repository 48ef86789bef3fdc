"""Rules about experiment trackers, the hub repository and pushes during training."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.eval_save_defaults import save_strategy
from orpo_cli.recipe.schema import Recipe

# Like validate_repo_id of huggingface_hub, but with a namespace: without one, the account of the token would be used.
REPO_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
# Trackers of transformers 5.23 (INTEGRATION_TO_CALLBACK); a test compares both.
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
)  # fmt: skip


def _trackers(recipe: Recipe) -> list[str]:
    names = recipe.training.report_to or []
    return [names] if isinstance(names, str) else names


def unknown_tracker(recipe: Recipe) -> Iterator[Problem]:
    """report_to is ``all``, ``none``, or trackers that transformers supports."""
    names = _trackers(recipe)
    for name in names:
        if name in TRACKERS or (name in ("all", "none") and len(names) == 1):
            continue
        yield Problem(
            "unknown-tracker",
            f"{name!r} cannot be combined with other trackers."
            if name in ("all", "none")
            else f"{name!r} is not a tracker of transformers.",
            "training.report_to",
            remedy=did_you_mean(name, TRACKERS, f"Trackers: {', '.join(TRACKERS)}; or none."),
        )


def tracker_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """Only trackers use the name and the project of a run, and only trackio its own settings."""
    trackers = [name for name in _trackers(recipe) if name != "none"]
    trackio_names = ["trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"]
    if "trackio" in trackers or "all" in trackers:
        return
    for name in recipe.training.explicit_non_defaults(*trackio_names, *([] if trackers else ["run_name", "project"])):
        reason = f"report_to does not contain {'trackio' if name in trackio_names else 'a tracker'}"
        remedy = "Add report_to, such as `report_to: trackio`, or remove it."
        yield _unused("tracker-settings-unused", name, reason, remedy)


def logging_dir_unused(recipe: Recipe) -> Iterator[Problem]:
    """Only TensorBoard uses logging_dir."""
    if recipe.training.logging_dir is not None and not {"tensorboard", "all"} & set(_trackers(recipe)):
        reason, remedy = "report_to does not contain tensorboard", "Add `report_to: tensorboard`, or remove it."
        yield _unused("tracker-settings-unused", "logging_dir", reason, remedy)


def invalid_repo_id(recipe: Recipe) -> Iterator[Problem]:
    """A repository id needs a namespace and a name that the hub accepts."""
    name = recipe.hub.repo_id
    if name is None or (
        REPO_ID.fullmatch(name) and "--" not in name and ".." not in name and not name.endswith(".git")
    ):
        return
    yield Problem(
        "hub-repo-id",
        f"{name!r} is not a repository id: namespace/name, each of at most 96 letters, digits, `-`, `_` and `.`.",
        "hub.repo_id",
        remedy="For example my-name/my-model.",
    )


def push_settings(recipe: Recipe) -> Iterator[Problem]:
    """A push during training needs a repository, and its settings need a push."""
    training = recipe.training
    if not training.push_to_hub:
        for name in recipe.training.explicit_non_defaults("hub_strategy", "hub_always_push", "hub_revision"):
            remedy = "Add `push_to_hub: true`, or remove it."
            yield _unused("push-settings-unused", name, "push_to_hub is not true", remedy)
        return
    if recipe.hub.repo_id is None:
        yield Problem(
            "push-without-repository",
            "needs hub.repo_id.",
            "training.push_to_hub",
            remedy="Set hub.repo_id to NAMESPACE/NAME, or remove push_to_hub and use `orpo push-to-hub` after the run.",
        )
    pushes_checkpoints = training.hub_strategy in ("checkpoint", "all_checkpoints")
    if pushes_checkpoints and save_strategy(recipe)[0] == "no":
        reason = "save_strategy is no, so there are no checkpoints"
        yield _unused("push-settings-unused", "hub_strategy", reason, "Set save_strategy, or remove it.")
    if training.hub_strategy == "end" and training.hub_always_push:
        reason = "`hub_strategy: end` pushes only once"
        yield _unused("push-settings-unused", "hub_always_push", reason, "Remove it.")


def _unused(code: str, name: str, reason: str, remedy: str) -> Problem:
    return Problem(code, f"has no effect: {reason}.", f"training.{name}", remedy=remedy, severity="warning")
