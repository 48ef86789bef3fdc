"""Files that a configuration names: DeepSpeed's JSON and accelerate's YAML, searched beside the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.errors import RecipeError
from orpo_cli.recipe.source.nodes import plain_values
from orpo_cli.recipe.source.yaml_reader import FORBIDDEN_CHARACTERS, read_yaml

# Names of the files that axolotl, LLaMA-Factory and ms-swift have for a stage: zero3_bf16.json, ds_z2_offload_config.json, zero1.
_STAGE_IN_NAME = re.compile(r"(?:^|_)z(?:ero)?_?([0-3])(?=[_.]|$)")
MAX_BYTES = 1 << 20


def read_mapping(name: str, folders: Sequence[FilePath], keys: Sequence[str]) -> dict[str, Any] | str:
    """The content of the file ``name``, a mapping with one of ``keys``; or the reason why there is none."""
    try:
        found = [folder / FilePath(name).expanduser() for folder in folders]
        file = next((each for each in found if each.is_file()), None)
        if file is None:
            return "The file is not here"
        if file.stat().st_size > MAX_BYTES:
            return "The file is too large"
        text = file.read_text(encoding="utf-8")
        values: dict[str, Any] = plain_values(read_yaml(text, name))
    except (OSError, ValueError, RuntimeError, RecipeError):
        return "The file cannot be read"
    if FORBIDDEN_CHARACTERS.search(text) or not any(key in values for key in keys):
        return f"The file has none of the keys {', '.join(keys)}"
    return values


def deepspeed_config_of_name(name: str) -> dict[str, Any] | None:
    """The stage and the offloading that the name of a file of DeepSpeed's configuration says."""
    stem = FilePath(name).name.lower()
    found = _STAGE_IN_NAME.search(stem)
    if found is None:
        return None
    stage = int(found[1])
    config: dict[str, Any] = {"stage": stage}
    if "offload" in stem:
        config["offload_optimizer"] = {"device": "cpu"}
        if stage == 3 and "offload_optimizer" not in stem:
            config["offload_param"] = {"device": "cpu"}
    return {"zero_optimization": config}
