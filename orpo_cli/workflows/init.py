"""Init workflow (`orpo init`): the text of a new recipe, from a template or a shipped recipe, written to a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orpo_cli.atomic import atomic_write_text
from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.shipped_recipes import ShippedRecipe, shipped_recipe
from orpo_cli.workflows.output_file import check_output_file

START_RECIPE = """\
# A recipe of orpo-cli. Only model and dataset are required; `orpo schema` prints every key, for you and for your editor.
# Names inside a section are those of the library it configures, so the Hugging Face documentation applies.

name: recipe
output_dir: runs/recipe # run directory; an existing run is never overwritten

model:
  model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct # hub id, local folder or .gguf file
  chat_template: tokenizer # for a base model that has none: chatml, zephyr, llama3, mistral, gemma, or a .jinja file

# quantization: # QLoRA: load the base model in 4 bits
#   load_in_4bit: true
#   bnb_4bit_quant_type: nf4
#   bnb_4bit_use_double_quant: true

lora: # leave the section out to train every weight
  r: 16
  lora_alpha: 32
  target_modules: all-linear

dataset:
  train:
    path: pairs.jsonl # hub id, file or folder: json, jsonl, csv, parquet, .gz
    # columns: {chosen: good, rejected: bad} # name in orpo-cli: name in the data, where they differ
  eval:
    test_size: 0.05 # held out from train; or another source with a path
  truncation_mode: keep_end # for prompts that are too long: keep_end, keep_start, or drop the pair

training: # every argument of trl's ORPOConfig and transformers' TrainingArguments
  beta: 0.1 # weight of the odds ratio term (the paper's lambda)
  max_length: 1024 # prompt and answer together, in tokens
  learning_rate: 1.0e-4 # for LoRA; about 8.0e-6 if every weight is trained
  lr_scheduler_type: cosine
  warmup_steps: 0.1 # below 1: a fraction of all steps
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 8 # 4 x 8 = 32 pairs per step
  num_train_epochs: 1
  logging_steps: 1
  eval_strategy: epoch
  save_strategy: epoch
  seed: 42
"""

KeyPath = tuple[str, ...]  # ("dataset", "train", "path")


class NewRecipe(NamedTuple):
    """A recipe that was written."""

    name: str
    path: Path


def write_new_recipe(
    name: str, output: Path | None, *, shipped: str | None, model: str | None, data: str | None, overwrite: bool
) -> NewRecipe:
    """Write a recipe called ``name`` to ``output`` (default: NAME.yaml).

    ``shipped``: the shipped recipe to copy, instead of the template. Raises UsageError for empty values and where the file
    cannot be written.
    """
    name = re.sub(r"\.ya?ml$", "", name)
    target = output or Path(f"{name}.yaml")
    text = new_recipe_text(Path(name).name, target, shipped_recipe(shipped) if shipped else None, model, data)
    check_output_file(target, overwrite=overwrite, option="NAME or --output")
    atomic_write_text(target, text)
    return NewRecipe(Path(name).name, target)


def new_recipe_text(name: str, target: Path, shipped: ShippedRecipe | None, model: str | None, data: str | None) -> str:
    """The text of a new recipe: template or shipped recipe, with its comments, and the user's values filled in.

    Raises UsageError for an empty value.
    """
    for option, value in (("NAME", name), ("--model", model), ("--data", data)):
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    text = shipped.text_to_copy() if shipped else START_RECIPE
    changes: dict[KeyPath, str] = {("name",): _scalar(name), ("output_dir",): _scalar(f"runs/{name}")}
    if model:
        changes[("model", "model_name_or_path")] = _scalar(model)
    if data and shipped:  # split, columns and held-out pairs of the shipped recipe belong to other data
        changes[("dataset", "train")] = f"path: {_scalar(data)}"
        changes[("dataset", "eval")] = "test_size: 0.05"
    elif data:
        changes[("dataset", "train", "path")] = _scalar(data)
    elif shipped:
        changes |= _relative_data_paths(shipped, target)
    return _replace_values(text, changes)


def _relative_data_paths(shipped: ShippedRecipe, target: Path) -> dict[KeyPath, str]:
    """Data files next to a shipped recipe, by the path from the copy to them."""
    dataset = yaml.safe_load(shipped.text())["dataset"]
    paths: dict[KeyPath, str] = {}
    for part in ("train", "eval"):
        source = dataset.get(part)
        file = shipped.path.parent / source["path"] if isinstance(source, dict) and "path" in source else None
        if file is not None and file.is_file():
            below = file.is_relative_to(target.resolve().parent)
            shown_path = file.relative_to(target.resolve().parent) if below else file
            paths[("dataset", part, "path")] = _scalar(shown_path.as_posix())
    return paths


def _replace_values(text: str, changes: dict[KeyPath, str]) -> str:
    """``text`` with other values at these paths, and its comments; a path that is not in it is ignored."""
    root = yaml.compose(text)
    spans = []
    for path, value in changes.items():
        node: Any = root
        for key in path:
            node = next((each for name, each in node.value if name.value == key), None)
            if node is None:
                break
        else:
            spans.append((node.start_mark.index, _end_position(node), value))
    for start, end, value in sorted(spans, reverse=True):  # from the end, so that earlier positions stay right
        text = text[:start] + value + text[end:]
    return text


def _end_position(node: Any) -> int:
    """Position after the last value inside ``node``; the end mark of the node would include the comments below it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end_position(last[1] if isinstance(last, tuple) else last)


def _scalar(value: str) -> str:
    """``value`` as YAML text: unquoted only where YAML reads the same string back."""
    plain = re.fullmatch(r"(\.{0,2}/|[A-Za-z~])[\w./:~-]*", value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)
