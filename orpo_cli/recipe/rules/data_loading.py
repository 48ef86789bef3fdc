"""Rules about data loader processes and accelerate's batching."""

from __future__ import annotations

from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.schema import Recipe

ACCELERATOR_CONFIG_KEYS = (
    "split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking",
    "gradient_accumulation_kwargs", "use_configured_state",
)  # fmt: skip


def worker_settings_unused(recipe: Recipe) -> Iterator[Problem]:
    """By default there are no worker processes that these settings could configure."""
    if recipe.training.dataloader_num_workers:
        return
    for name in recipe.training.explicit_non_defaults(
        "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"
    ):
        yield Problem(
            "worker-settings-unused",
            "needs worker processes, but dataloader_num_workers is 0.",
            f"training.{name}",
            remedy="Remove it, or set dataloader_num_workers.",
        )


def accelerator_config_keys(recipe: Recipe) -> Iterator[Problem]:
    """accelerate knows seven keys of accelerator_config; dispatch_batches does not work with batches of pairs."""
    config, path = recipe.training.accelerator_config, "training.accelerator_config"
    if not isinstance(config, dict):
        return  # the path of a file that the library reads
    for key in config.keys() - set(ACCELERATOR_CONFIG_KEYS):
        yield Problem(
            "accelerator-config",
            f"accelerate has no key `{key}` here.",
            path,
            remedy=did_you_mean(
                str(key), ACCELERATOR_CONFIG_KEYS, f"Its keys are {', '.join(ACCELERATOR_CONFIG_KEYS)}."
            ),
        )
    if config.get("dispatch_batches"):
        yield Problem(
            "accelerator-config",
            "dispatch_batches: true splits batches as tensors, which does not work for a batch of pairs.",
            path,
            remedy="Remove it: each process reads its own pairs.",
        )
    accumulation = config.get("gradient_accumulation_kwargs")
    if isinstance(accumulation, dict) and "num_steps" in accumulation:
        yield Problem(
            "accelerator-config",
            "num_steps is another name of gradient_accumulation_steps.",
            path,
            remedy="Write training.gradient_accumulation_steps.",
        )


RULES = (worker_settings_unused, accelerator_config_keys)
