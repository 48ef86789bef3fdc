"""Configurations of the models in shipped recipes, for machines that cannot reach the hub.

With them `orpo plan` knows the model's size, and `orpo train --smoke` its architecture, without the network. known_configs.json
has only the keys of each config.json that decide sizes and code paths. No model is trained with them, and the hub's configuration
has precedence.
"""

from __future__ import annotations

import json
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
