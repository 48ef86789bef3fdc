"""The page of docs/reference that lists the shipped recipes, from their headers."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from orpo_cli.recipe.source.shipped_recipes import ShippedRecipe, shipped_folder, shipped_recipes

INTRODUCTION = """\
`orpo recipes` lists these, `orpo recipes show NAME` prints one, `orpo init MINE --from NAME` writes one to change, and a name
stands wherever a recipe is asked for: `orpo plan qwen3-8b-qlora`. The header of each says what it reproduces, on what
hardware, from which source, where sources contradict each other, and where it differs from them."""

MEMORY = """\
## How memory is estimated

Nothing above but the quickstart has been run by this project at full size, so the memory in a header is an estimate of the
parts that grow with the model, in gigabytes (10^9 bytes), with every sequence at full length and the step as trl computes it:

- **weights**: 4 bytes each in float32, 2 in bfloat16. In 4 bits 0.52 for each weight of a linear layer and 2 for all others.
  Where float32 weights are computed in bfloat16, 2 more for each weight of a linear layer.
- **gradients**: as the weights that are trained; those of LoRA are float32.
- **optimizer**: 8 bytes for each trained weight, 2 where its states have 8 bits.
- **activations**: with checkpointing, the input of every layer and the inside of one (8 hidden sizes and 3 intermediate sizes
  a token).
- **logits**: 10 bytes for each entry of the vocabulary at each of 2 × batch × max_length places.

What libraries and the GPU take for themselves comes on top: a gigabyte or two. Too much? Halve per_device_train_batch_size and
double gradient_accumulation_steps: the step stays the same. `orpo train --smoke NAME` tries a recipe out in seconds, on any machine, with a
random model shrunk to nothing."""


def page(generated: str) -> str:
    """All shipped recipes, a table a family, and how memory is estimated."""
    parts = [f"# Shipped recipes\n\n{generated}".strip(), INTRODUCTION]
    for family, recipes in groupby(shipped_recipes(), key=lambda recipe: recipe.family):
        rows = [f"| [{each.name}]({_link(each.path)}) | {each.summary} | {_memory(each)} |" for each in recipes]
        parts.append(
            "\n".join([f"## {family or 'To begin with'}\n", "| recipe | what | memory |", "| --- | --- | --- |", *rows])
        )
    return "\n\n".join([*parts, MEMORY]) + "\n"


def _link(path: Path) -> str:
    return "../../recipes/" + path.relative_to(shipped_folder()).as_posix()


def _memory(recipe: ShippedRecipe) -> str:
    """The figure in the header: `13 GB` for an estimate, `5.4 GB, measured` for one that was measured."""
    found = re.search(r"^# Memory +(?:about )?([\d.]+ GB)([^\n]*)", recipe.text(), re.MULTILINE)
    assert found is not None, f"{recipe.path} says nothing of memory"
    return found[1] + (", measured" if "measured" in found[2] else "")
