"""Memory in the headers of shipped recipes: equal to the rule in docs/reference/recipes.md for the model and settings.

The rule, in bytes, at full length and with trl's training step:

* weights: 2 or 4 each by dtype; in 4 bits 0.52 for each weight of a linear layer and 2 for the others; if float32 weights are
  used in bfloat16, a copy of the linear layers in 2;
* gradients: as the trained weights; LoRA's are float32;
* optimizer: 8 for each trained weight, or 2 with 8-bit states;
* activations: with checkpointing the input of every layer and the activations inside one: 8 hidden + 3 intermediate, 2 bytes
  a token;
* logits: 10 for each token of the vocabulary, at each of the 2 x batch x max_length positions.

With several processes, on each GPU:

* DDP: the same;
* FSDP: weights, gradients and optimizer are divided by the number of GPUs; two layers and the output layer are whole, 2 bytes each;
* ZeRO-2: the weights in 2, and a share of 4 bytes each; a share of gradients, 2 each, and of the optimizer.
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

NAMES = [recipe.name for recipe in shipped_recipes() if recipe.name != "quickstart"]  # its memory is measured, on a CPU


@dataclass(frozen=True)
class Memory:
    """Gigabytes (10^9 bytes) by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    def line(self, gpus: int) -> str:
        """Text of the header line."""
        each = f" on each of {gpus} GPUs" if gpus > 1 else ""
        return (
            f"about {_round(sum(astuple(self)))} GB{each}, estimated: weights {_round(self.weights)}, gradients {_round(self.gradients)}, "
            f"optimizer {_round(self.optimizer)}, activations {_round(self.activations)}, logits {_round(self.logits)}."
        )


def _round(gigabytes: float) -> str:
    return f"{gigabytes:.0f}" if gigabytes >= 10 else f"{gigabytes:.1f}"


def estimate(recipe: Recipe) -> Memory:
    """Memory of a recipe according to the rule above."""
    config = known_config(recipe.model.model_name_or_path)
    assert config is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    total = sum(parameter.numel() for parameter in model.parameters())
    head = model.get_output_embeddings().weight
    linear = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.weight is not head
    }
    linear_total = sum(weight.numel() for weight in linear.values())
    training = recipe.training
    tokens = 2 * training.per_device_train_batch_size * training.max_length
    states = 2 if "8bit" in training.optim else 8
    if recipe.lora is None:
        width = 2 if recipe.model.dtype == "bfloat16" else 4
        copied = width == 4 and recipe.launch.written_strategy() != "fsdp"
        weights = total * width + (2 * linear_total if copied else 0)
        trained, gradients = total, total * width
    else:
        targets = recipe.lora.target_modules
        adapted = [weight for name, weight in linear.items() if _is_target(name, targets)]
        trained = sum(recipe.lora.r * (weight.shape[0] + weight.shape[1]) for weight in adapted)
        weights = 0.52 * linear_total + 2 * (total - linear_total) if recipe.quantization else 2 * total
        weights, gradients = weights + 4 * trained, 4 * trained
    optimizer = states * trained
    gpus, strategy = gpus_of(recipe), recipe.launch.written_strategy()
    if strategy == "fsdp":
        layers = next(
            each
            for each in model.modules()
            if isinstance(each, torch.nn.ModuleList) and len(each) == text.num_hidden_layers
        )
        whole = 2 * max(map(count, layers)) + head.numel()
        weights, gradients, optimizer = weights / gpus + 2 * whole, gradients / gpus, optimizer / gpus
    if strategy == "deepspeed":
        weights, gradients, optimizer = 2 * total + 4 * total / gpus, 2 * total / gpus, optimizer / gpus
    intermediate_size = getattr(text, "intermediate_size", None) or text.ffn_dim
    residual = 4 if recipe.model.dtype == "float32" else 2
    activations = tokens * (
        text.num_hidden_layers * text.hidden_size * residual + 2 * (8 * text.hidden_size + 3 * intermediate_size)
    )
    logits = tokens * text.vocab_size * 10
    return Memory(*(part / 1e9 for part in (weights, gradients, optimizer, activations, logits)))


def gpus_of(recipe: Recipe) -> int:
    return 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_target(name: str, targets: str | list[str]) -> bool:
    if isinstance(targets, list):
        return name.rpartition(".")[2] in targets
    return targets == "all-linear" or re.fullmatch(targets, name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_in_the_header_equals_the_rule(name: str) -> None:
    header = " ".join(line.lstrip("# ") for line in shipped_recipe(name).text().split("\n\n")[0].splitlines())
    recipe = load_recipe(name).recipe
    assert f"Memory {estimate(recipe).line(gpus_of(recipe))}" in re.sub(r" +", " ", header)
