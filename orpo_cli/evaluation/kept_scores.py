"""Kept scores of base models: a base does not change, so its scores of the same pairs are computed once.

They are in the cache directory, under a key of everything that decides them: all weights, the configuration, the token ids,
how the pairs are packed, the device and its threads, the versions and the code. If one of these differs, the base is scored again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from orpo_cli import __version__
from orpo_cli.evaluation.base_digests import base_digests
from orpo_cli.evaluation.preference_scores import PairScores
from orpo_cli.json_cache import code_digest, read_cached, write_cached
from orpo_cli.run_attempts import now

LIBRARIES = ("torch", "transformers", "peft")
KIND = "scores"  # folder in the cache directory
CODE = (
    "evaluation/preference_scores.py",
    "training/*_scoring.py",
    "training/shared_lower_layers.py",
    "training/engine/*.py",
)
COLUMNS = ("prompt_input_ids", "chosen_answer_ids", "rejected_answer_ids")
TENSORS = ("chosen", "rejected", "longer", "weights")  # of PairScores
NUMBERS = ("nll", "nll_tokens", "logits_chosen", "logits_rejected")

Key = dict[str, Any]


@dataclass(frozen=True)
class KeptScores:
    """Scores with the time (ISO 8601, UTC) and the command of their computation."""

    scores: PairScores
    computed: str
    by: str

    def as_record(self) -> dict[str, str]:
        """For the JSON document of an evaluation."""
        return {"computed": self.computed, "by": self.by}


def scores_key(model: Any, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Key | None:
    """What decides the scores of ``rows`` by the base that ``model`` is, or contains without its adapter.

    ``settings``: how they are computed, JSON-ready. None where that is not sure: sharded, offloaded or 8-bit weights, custom code.
    """
    if os.environ.get("ORPO_SCORE_CACHE") == "0":
        return None
    digests = base_digests(model)
    if digests is None:
        return None
    base, weights, config = digests
    kind = base.device.type
    return {
        "weights": weights,
        "config": config,
        "pairs": _pairs_digest(rows),
        "settings": dict(sorted(settings.items())),
        "autocast": str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None,
        "matmul_precision": torch.get_float32_matmul_precision(),  # "high" means TF32 on a GPU
        "device": torch.cuda.get_device_name(base.device) if kind == "cuda" else kind,
        "threads": torch.get_num_threads(),
        "orpo_cli": __version__,
        "code_and_versions": _code(),
    }


def computes_as_base(model: Any) -> bool:
    """Whether an untrained ``model`` computes what its base does: it has no adapter, or a LoRA adapter whose B is zero."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    adapted = [each for each in model.modules() if isinstance(each, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    return all(
        isinstance(each, LoraLayer)
        and not each.lora_variant
        and not each.lora_embedding_B
        and not any(part.any() for matrix in each.lora_B.values() for part in matrix.parameters())
        for each in adapted
    )


def read_scores(key: Key) -> KeptScores | None:
    """The kept scores of this key; None where there are none, or their file is damaged."""
    found = read_cached(KIND, key)
    if found is None:
        return None
    with suppress(KeyError, TypeError, ValueError):
        tensors: dict[str, Any] = {
            name: found[name] and torch.tensor(found[name], dtype=torch.float64) for name in TENSORS
        }
        numbers: dict[str, Any] = {name: float(found[name]) for name in NUMBERS}
        return KeptScores(PairScores(**tensors, **numbers), str(found["computed"]), str(found["by"]))
    return None


def keep_scores(key: Key, scores: PairScores, by: str) -> None:
    """Keep ``scores``, computed now ``by`` this command; a cache that cannot be written is not used."""
    values = {name: getattr(scores, name) for name in (*TENSORS, *NUMBERS)}
    values = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    write_cached(KIND, key, {"computed": now(), "by": by, **values})


def _pairs_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """xxh3 of all token ids and weights."""
    import numpy as np
    import xxhash

    digest = xxhash.xxh3_128()
    for row in rows:
        ids = [np.asarray(row[column], dtype=np.int64) for column in COLUMNS]
        digest.update(f"{[len(each) for each in ids]} {float(row.get('weight', 1.0))}".encode())
        digest.update(np.concatenate(ids).data)
    return digest.hexdigest()


@cache
def _code() -> str:
    root = Path(__file__).parents[1]
    return code_digest(LIBRARIES, [module for pattern in CODE for module in root.glob(pattern)])
