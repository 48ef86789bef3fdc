"""Configurations of the models in shipped recipes, for machines that cannot reach the hub.

With them `orpo plan` knows the model's size, and `orpo train --smoke` its architecture, without the network. known_configs.json
has only the keys of each config.json that decide sizes and code paths. No model is trained with them, and the hub's configuration
has precedence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIGS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def known_config(name: str) -> PreTrainedConfig | None:
    """The configuration of the hub model ``name`` in known_configs.json, or None."""
    if name not in CONFIGS:
        return None
    from transformers import AutoConfig

    return AutoConfig.for_model(**CONFIGS[name])


# Architectures of models whose name does not contain the name that transformers has for it.
OTHER_NAMES = {
    "pythia": "gpt_neox",
    "zephyr": "mistral",
    "starling": "mistral",
    "smollm2": "llama",
    "tinyllama": "llama",
}
DEFAULT_MODEL_TYPE = "llama"


def guess_model_type(name: str) -> str:
    """The architecture of the hub model ``name`` by its name, as transformers calls it: qwen2 for Qwen/Qwen2.5-7B, else llama.

    Only a smoke run without a network uses it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN_TYPES

    repository = name.rpartition("/")[2].lower()
    words = re.findall(r"[a-z0-9]+", repository)
    tails = ["".join(words[index:]) for index in range(len(words))]  # a type begins with a word of the name
    types = {_letters(each.removesuffix("_text")): each for each in sorted(KNOWN_TYPES)} | OTHER_NAMES
    matching: Iterable[str] = (each for each in types if any(tail.startswith(each) for tail in tails))
    longest = max(matching, key=len, default=None)
    return DEFAULT_MODEL_TYPE if longest is None else types[longest]


def _letters(model_type: str) -> str:
    return re.sub(r"[^a-z0-9]", "", model_type)
