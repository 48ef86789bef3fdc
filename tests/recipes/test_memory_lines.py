"""The memory that a recipe's header gives is what the rule of docs/reference/recipes.md gives for its model and settings.

The rule, in bytes, at full length and with trl's own step:

* weights: 2 or 4 each by dtype; in 4 bits 0.52 for each weight of a linear layer and 2 for the others; where float32 is
  computed in bfloat16, a copy of the linear layers in 2;
* gradients: as the trained weights; LoRA's are float32;
* optimizer: 8 for each trained weight, or 2 with 8-bit states;
* activations: with checkpointing the input of every layer and the inside of one: 8 hidden + 3 intermediate, 2 bytes a token;
* logits: 10 for each token of the vocabulary, at each of the 2 x batch x max_length places.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM

from orpo_cli.model.known_configs import known_config
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe, shipped_recipes

NAMES = [recipe.name for recipe in shipped_recipes() if recipe.name != "quickstart"]  # that one was measured, on a CPU


@dataclass(frozen=True)
class Memory:
    """Gigabytes (10^9 bytes) by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    def line(self) -> str:
        """As a header says it."""
        return (
            f"about {_round(sum(astuple(self)))} GB, estimated: weights {_round(self.weights)}, gradients {_round(self.gradients)}, "
            f"optimizer {_round(self.optimizer)}, activations {_round(self.activations)}, logits {_round(self.logits)}."
        )


def _round(gigabytes: float) -> str:
    return f"{gigabytes:.0f}" if gigabytes >= 10 else f"{gigabytes:.1f}"


def estimate(recipe: Recipe) -> Memory:
    """The rule above for one recipe."""
    config = known_config(recipe.model.model_name_or_path)
    assert config is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    everything = sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings().weight
    linear = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not head
    }
    in_linear = sum(weight.numel() for weight in linear.values())
    training = recipe.training
    tokens = 2 * training.per_device_train_batch_size * training.max_length
    states = 2 if "8bit" in training.optim else 8
    if recipe.lora is None:
        width = 2 if recipe.model.dtype == "bfloat16" else 4
        weights = everything * width + (2 * in_linear if width == 4 else 0)
        trained, gradients = everything, everything * width
    else:
        targets = recipe.lora.target_modules
        chosen = [weight for name, weight in linear.items() if _is_target(name, targets)]
        trained = sum(recipe.lora.r * (weight.shape[0] + weight.shape[1]) for weight in chosen)
        weights = 0.52 * in_linear + 2 * (everything - in_linear) + 4 * trained
        gradients = 4 * trained
    inner = getattr(text, "intermediate_size", None) or text.ffn_dim
    residual = 4 if recipe.model.dtype == "float32" else 2
    activations = tokens * (
        text.num_hidden_layers * text.hidden_size * residual + 2 * (8 * text.hidden_size + 3 * inner)
    )
    logits = tokens * text.vocab_size * 10
    return Memory(*(part / 1e9 for part in (weights, gradients, states * trained, activations, logits)))


def _is_target(name: str, targets: str | list[str]) -> bool:
    if isinstance(targets, list):
        return name.rpartition(".")[2] in targets
    return targets == "all-linear" or re.fullmatch(targets, name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_in_a_header_is_what_the_rule_gives(name: str) -> None:
    header = " ".join(line.lstrip("# ") for line in shipped_recipe(name).text().split("\n\n")[0].splitlines())
    assert f"Memory {estimate(load_recipe(name).recipe).line()}" in re.sub(r" +", " ", header)
