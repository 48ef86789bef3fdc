"""Rules about how prepared pairs become batches."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.rules.explicit_non_defaults import explicit_non_defaults
from orpo_cli.recipe.schema import Recipe

ACCELERATOR_CONFIG_KEYS = (
    "split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking",
    "gradient_accumulation_kwargs", "use_configured_state",
)  # fmt: skip


def worker_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """They are for processes that load data, of which there are none by default."""
    if recipe.training.dataloader_num_workers:
        return
    for name in explicit_non_defaults(
        recipe, "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"
    ):
        yield Problem(
            "worker-settings-unused",
            "is for worker processes, and dataloader_num_workers is 0.",
            f"training.{name}",
            remedy="Remove it, or set dataloader_num_workers.",
        )


def accelerator_config_keys(recipe: Recipe) -> Iterator[Problem]:
    """accelerator_config goes to accelerate's configuration, which knows seven keys; one of them cannot be had here."""
    config, path = recipe.training.accelerator_config, "training.accelerator_config"
    if not isinstance(config, dict):
        return  # the path of a file, which the library reads
    for key in config.keys() - set(ACCELERATOR_CONFIG_KEYS):
        yield Problem(
            "accelerator-config",
            f"accelerate knows no `{key}` here.",
            path,
            remedy=did_you_mean(str(key), ACCELERATOR_CONFIG_KEYS, f"It knows {', '.join(ACCELERATOR_CONFIG_KEYS)}."),
        )
    if config.get("dispatch_batches"):
        yield Problem(
            "accelerator-config",
            "dispatch_batches: true cuts batches up as tensors, and a batch of pairs is not one.",
            path,
            remedy="Remove it: each process reads its own pairs.",
        )
    accumulation = config.get("gradient_accumulation_kwargs")
    if isinstance(accumulation, dict) and "num_steps" in accumulation:
        yield Problem(
            "accelerator-config",
            "num_steps is gradient_accumulation_steps by another name.",
            path,
            remedy="Write training.gradient_accumulation_steps.",
        )


RULES = (worker_settings_unused, accelerator_config_keys)
