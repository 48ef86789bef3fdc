"""Recipes page of docs/reference: the shipped recipes, described by their headers."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from orpo_cli.recipe.source.shipped_recipes import ShippedRecipe, shipped_folder, shipped_recipes

INTRODUCTION = """\
`orpo recipes` lists these recipes, `orpo recipes show NAME` prints one, and `orpo init MINE --from NAME` copies one for you to edit.
Every command that takes a recipe also takes a name: `orpo plan qwen3-8b-qlora`. The header of each recipe states what it
reproduces, on which hardware and from which source, where sources contradict each other, and where the recipe differs from them."""

MEMORY = """\
## How memory is estimated

Of these recipes, this project has run only the quickstart at full size. The memory in a header is therefore an estimate of the parts
that grow with the model, in gigabytes (10^9 bytes). It assumes that every sequence has the full length and that TRL's
implementation computes the step:

- **weights**: 4 bytes per weight in float32, 2 in bfloat16. In 4 bits, 0.52 per weight of a linear layer and 2 per other weight.
  If float32 weights are converted to bfloat16 for computation, 2 more per weight of a linear layer.
- **gradients**: as many bytes as the trained weights; gradients of LoRA are float32.
- **optimizer**: 8 bytes per trained weight, 2 with 8-bit states.
- **activations**: with checkpointing, the input of every layer and the activations inside one layer (8 × hidden size and
  3 × intermediate size per token).
- **logits**: 10 bytes per vocabulary entry at each of 2 × batch × max_length positions.

With several processes, the memory is that of each GPU. With DDP, it is the same. With FSDP, weights, gradients and optimizer are divided by
the number of GPUs, and two layers and the output layer are complete, 2 bytes per weight. With stage 2 of ZeRO, the weights take 2 bytes on
each GPU and a share of 4 more, and gradients (2 bytes) and optimizer are divided.
The header of a recipe of the paper has the options for one GPU.

Libraries and the GPU context need another one or two gigabytes. To reduce the memory, halve `per_device_train_batch_size` and
double `gradient_accumulation_steps`; the step remains the same. `orpo train --smoke NAME` tests a recipe in seconds on any machine, with a
tiny random model."""


def page(generated: str) -> str:
    """Text of the page: one table per model family, and how memory is estimated."""
    parts = [f"# Shipped recipes\n\n{generated}".strip(), INTRODUCTION]
    for family, recipes in groupby(shipped_recipes(), key=lambda recipe: recipe.family):
        rows = [f"| [{each.name}]({_link(each.path)}) | {each.summary} | {_memory(each)} |" for each in recipes]
        parts.append(
            "\n".join(
                [f"## {family or 'Quickstart'}\n", "| recipe | description | memory |", "| --- | --- | --- |", *rows]
            )
        )
    return "\n\n".join([*parts, MEMORY]) + "\n"


def _link(path: Path) -> str:
    return "../../recipes/" + path.relative_to(shipped_folder()).as_posix()


def _memory(recipe: ShippedRecipe) -> str:
    """Memory figure of the recipe's header: `13 GB` for an estimate, `5.4 GB, measured` for a measurement."""
    found = re.search(
        r"^# Memory +(?:about )?([\d.]+ GB(?: on each of \d+ GPUs)?)([^\n]*)", recipe.text(), re.MULTILINE
    )
    assert found is not None, f"{recipe.path} has no memory line"
    return found[1] + (", measured" if "measured" in found[2] else "")
