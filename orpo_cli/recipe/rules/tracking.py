"""Rules about experiment trackers."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.schema import Recipe

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
        yield Problem(
            "tracker-settings-unused",
            f"has no effect: report_to does not contain {'trackio' if name in trackio_names else 'a tracker'}.",
            f"training.{name}",
            remedy="Add report_to, such as `report_to: trackio`, or remove it.",
            severity="warning",
        )


def logging_dir_unused(recipe: Recipe) -> Iterator[Problem]:
    """Only TensorBoard uses logging_dir."""
    if recipe.training.logging_dir is not None and not {"tensorboard", "all"} & set(_trackers(recipe)):
        yield Problem(
            "tracker-settings-unused",
            "has no effect: report_to does not contain tensorboard.",
            "training.logging_dir",
            remedy="Add `report_to: tensorboard`, or remove it.",
            severity="warning",
        )


RULES = (unknown_tracker, tracker_settings_unused, logging_dir_unused)
