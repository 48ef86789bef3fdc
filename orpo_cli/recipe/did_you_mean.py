"""Did-you-mean suggestions: the nearest known name for a misspelt key, value, file or problem code.

Keys are also found by their names in other tools and older versions, and in other sections of a recipe.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from orpo_cli.errors import DOCS
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.nodes import Path, format_path

# Names of other tools and versions that are not similar to ours.
KEYS_OF_OTHER_TOOLS = {
    "model": {
        "name": "model_name_or_path", "path": "model_name_or_path", "base_model": "model_name_or_path",
        "model_id": "model_name_or_path", "torch_dtype": "dtype", "precision": "dtype", "revision": "model_revision",
        "use_flash_attention_2": "attn_implementation", "attention": "attn_implementation", "template": "chat_template",
        "rope_parameters": "rope_scaling", "hf_token": "token",
    },
    "lora": {
        "lora_r": "r", "rank": "r", "lora_rank": "r", "lora_target": "target_modules",
        "lora_target_modules": "target_modules", "additional_target": "modules_to_save", "rslora": "use_rslora",
        "dora": "use_dora", "init_weights": "init_lora_weights",
    },
    "dataset": {"val_set_size": "eval", "test": "eval", "validation": "eval", "cutoff_len": "training.max_length"},
    "training": {
        "alpha": "beta", "lambda": "beta", "lr": "learning_rate", "batch_size": "per_device_train_batch_size",
        "micro_batch_size": "per_device_train_batch_size", "per_device_batch_size": "per_device_train_batch_size",
        "epochs": "num_train_epochs",
    },
}  # fmt: skip

# Sections in sections, whose keys people write one level too high.
NESTED_SECTIONS: tuple[Path, ...] = (("dataset", "train"), ("dataset", "rules"), ("training", "watchdogs"))


def closest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to ``name``; None if none is similar enough."""
    from difflib import get_close_matches  # only messages need it

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy that asks for the closest known name, or ``otherwise`` if none is close."""
    close = closest_name(name, known)
    return f"Did you mean `{close}`?" if close else otherwise


def did_you_mean_key(key: str, section: Path) -> str:
    """A remedy for an unknown key of ``section``: its name here, its section, or the keys that exist."""
    name, known = format_path(section), sorted(known_keys(section))
    if other := KEYS_OF_OTHER_TOOLS.get(name, {}).get(key):
        return f"The name here is `{other}`."
    if close := closest_name(key, known, 0.75):
        return f"Did you mean `{close}`?"
    sections = [*((each,) for each in Recipe.model_fields), *NESTED_SECTIONS]
    if home := next((format_path(each) for each in sections if each != section and key in known_keys(each)), None):
        return f"It belongs in `{home}`: `{home}.{key}`."
    if close := closest_name(key, known, 0.5):
        return f"Did you mean `{close}`?"
    return (
        f"Known keys: {', '.join(known)}." if len(known) <= 20 else f"The keys: {DOCS}/reference/training-arguments.md"
    )


def full_key(key: str) -> str | None:
    """The dotted key of a recipe for a key without its section, or under a name of another tool; None for any other text."""
    section, dot, name = key.partition(".")
    if dot:
        return key if name in known_keys((section,)) else None
    for section in Recipe.model_fields:
        if key in known_keys((section,)):
            return f"{section}.{key}"
        if other := KEYS_OF_OTHER_TOOLS.get(section, {}).get(key):
            return other if "." in other else f"{section}.{other}"
    return next((f"{format_path(each)}.{key}" for each in NESTED_SECTIONS if key in known_keys(each)), None)


def known_keys(section: Path) -> set[str]:
    """The keys that the schema has at ``section``; of a union, those of every member."""
    models: list[Any] = [Recipe]
    for part in section:
        if isinstance(part, int):
            continue
        models = [
            member
            for model in models
            if part in model.model_fields
            for member in models_in(model.model_fields[part].annotation)
        ]
    return {name for model in models for name in model.model_fields}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections of the schema among the alternatives of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]
