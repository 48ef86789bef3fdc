"""Counts of trained parameters and optimizer states; adapted modules are chosen by the rules of peft.LoraConfig."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.recipe.schema import LoraSection

# Optimizer states for each trained parameter, by a part of the optimizer's name; others have two, as Adam.
STATES_PER_PARAMETER = (
    ("ademamix", 3),
    ("adafactor", 0),
    ("lomo", 0),
    ("lion", 1),
    ("sgd", 0),
    ("rmsprop", 1),
    ("adagrad", 1),
    ("muon", 1),
)
# Layers of one module that read the same input. The engine computes them as one layer where their weights are in 4 bits.
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
LAYER_INDEX = re.compile(r"\.(\d+)\.")


def adapted_modules(linear: Sequence[str], lora: LoraSection) -> dict[str, int]:
    """The ``linear`` modules (without the head) that get an adapter, each with its rank."""
    return {
        name: _rank(name, lora)
        for name in linear
        if _matches(name, lora.target_modules)
        and not (lora.exclude_modules and _matches(name, lora.exclude_modules))
        and _in_layers(name, lora.layers_to_transform)
    }


def _matches(name: str, wanted: str | list[str]) -> bool:
    if wanted == "all-linear":
        return True
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def _in_layers(name: str, layers: int | list[int] | None) -> bool:
    if layers is None:
        return True
    found = LAYER_INDEX.search(name)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def _rank(name: str, lora: LoraSection) -> int:
    """peft's ``rank_pattern``: the end of a module's name, or a regular expression for it."""
    for pattern, rank in lora.rank_pattern.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return rank
    return lora.r


def count_trained_by_adapter(facts: ModelFacts, lora: LoraSection) -> tuple[int, int]:
    """Parameters of the adapter, and of the modules in ``modules_to_save``."""
    shapes = {name: (out, into) for name, out, into in facts.linear_layers}
    adapter = 0
    for name, rank in adapted_modules(list(shapes), lora).items():
        out, into = shapes[name]
        adapter += rank * (out + into) + (out if lora.use_dora else 0)
    saved = set(lora.modules_to_save or ())
    linear = sum(out * into for name, (out, into) in shapes.items() if name.rpartition(".")[2] in saved)
    embeddings = len(saved & {"lm_head", "embed_tokens", "wte", "embed_in"})
    return adapter, linear + facts.vocab_size * facts.hidden_size * embeddings


def optimizer_bytes(name: str, width: int) -> float:
    """Bytes of optimizer states for each trained parameter, which has ``width`` bytes."""
    kept = next((count for part, count in STATES_PER_PARAMETER if part in name), 2)
    if "8bit" in name:
        return kept * 1.02  # with a scale for every block
    if "4bit" in name:
        return kept * 0.55
    return kept * (4 if "32bit" in name else width)
