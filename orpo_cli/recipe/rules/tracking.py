"""Rules about experiment trackers."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.rules.explicit_non_defaults import explicit_non_defaults
from orpo_cli.recipe.schema import Recipe

# The trackers of transformers 5.23 (INTEGRATION_TO_CALLBACK); a test compares.
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
)  # fmt: skip


def _trackers(recipe: Recipe) -> list[str]:
    asked = recipe.training.report_to or []
    return [asked] if isinstance(asked, str) else asked


def unknown_tracker(recipe: Recipe) -> Iterator[Problem]:
    """report_to names trackers that transformers knows, or ``all``, or ``none``."""
    asked = _trackers(recipe)
    for name in asked:
        if name in TRACKERS or (name in ("all", "none") and len(asked) == 1):
            continue
        yield Problem(
            "unknown-tracker",
            f"{name!r} stands alone."
            if name in ("all", "none")
            else f"{name!r} is no tracker that transformers knows.",
            "training.report_to",
            remedy=did_you_mean(name, TRACKERS, f"Known: {', '.join(TRACKERS)}; or none."),
        )


def tracker_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """A run's name and project are what trackers show."""
    asked = [name for name in _trackers(recipe) if name != "none"]
    names = ["trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"]
    if "trackio" in asked or "all" in asked:
        return
    for name in explicit_non_defaults(recipe, *names, *([] if asked else ["run_name", "project"])):
        yield Problem(
            "tracker-settings-unused",
            f"would do nothing: report_to names no tracker{' trackio' * (name in names)}.",
            f"training.{name}",
            remedy="Add report_to, such as `report_to: trackio`, or remove it.",
            severity="warning",
        )


def logging_dir_unused(recipe: Recipe) -> Iterator[Problem]:
    """logging_dir is TensorBoard's."""
    if recipe.training.logging_dir is not None and not {"tensorboard", "all"} & set(_trackers(recipe)):
        yield Problem(
            "tracker-settings-unused",
            "would do nothing: report_to does not name tensorboard.",
            "training.logging_dir",
            remedy="Add `report_to: tensorboard`, or remove it.",
            severity="warning",
        )


RULES = (unknown_tracker, tracker_settings_unused, logging_dir_unused)
