"""``orpo init``: write a recipe to start from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.options import Json, Quiet
from orpo_cli.errors import UsageError
from orpo_cli.recipe.source.shipped_recipes import ShippedRecipe, shipped_recipe
from orpo_cli.report.console import Console

START = """\
# A recipe of orpo-cli. Only model and dataset are required; `orpo schema` has every key, for you and for your editor.
# Names inside a section are those of the library it configures, so the Hugging Face documentation applies.

name: recipe
output_dir: runs/recipe # where the run goes; an earlier run is never overwritten

model:
  model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct # hub id, local folder or .gguf file
  chat_template: tokenizer # for a base model that has none: chatml, zephyr, llama3, mistral, gemma, or a .jinja file

# quantization: # QLoRA: hold the base model in 4 bits
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
    # columns: {chosen: good, rejected: bad} # our name: the data's name, where they differ
  eval:
    test_size: 0.05 # held out from train; or a source with a path of its own
  truncation_mode: keep_end # of prompts that are too long: keep_end, keep_start, or drop the pair

training: # trl ORPOConfig and transformers TrainingArguments, all of them
  beta: 0.1 # weight of the odds ratio term (the paper's lambda)
  max_length: 1024 # prompt and answer together, in tokens
  learning_rate: 1.0e-4 # for LoRA; nearer 8.0e-6 where every weight is trained
  lr_scheduler_type: cosine
  warmup_steps: 0.1 # below 1: a share of all steps
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 8 # 4 x 8 = 32 pairs a step
  num_train_epochs: 1
  logging_steps: 1
  eval_strategy: epoch
  save_strategy: epoch
  seed: 42
"""

Keys = tuple[str, ...]  # ("dataset", "train", "path")


def command(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the recipe and of its run.")] = "recipe",
    start: Annotated[str | None, typer.Option("--from", metavar="SHIPPED", help="Start from a shipped recipe.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.yaml.")] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="Fill in model.model_name_or_path.")] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="Fill in dataset.train.path.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a recipe to start from, with a comment beside what people change.

    [bold]Examples[/bold]

      orpo init
      orpo init helpful --model Qwen/Qwen2.5-0.5B --data pairs.jsonl
      orpo init mine --from quickstart -o recipes/mine.yaml
    """
    console = Console(quiet=quiet, as_json=as_json)
    name = re.sub(r"\.ya?ml$", "", name)
    target = output or Path(f"{name}.yaml")
    text = starting_text(Path(name).name, target, shipped_recipe(start) if start else None, model, data)
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: {'it is a' if target.is_dir() else 'there is no such'} folder.")
    if target.exists() and not force:
        raise UsageError(f"{target} exists already.", remedy="Choose another NAME or --output, or add --force.")
    atomic_write_text(target, text)
    console.result(f"wrote {target}")
    console.note(
        f"Next:\n  orpo validate {target}    every error, with its line\n"
        f"  orpo plan {target}        every decided value, with its reason\n  orpo train {target}"
    )
    console.document({"status": "ok", "path": str(target), "name": Path(name).name})


def starting_text(name: str, target: Path, shipped: ShippedRecipe | None, model: str | None, data: str | None) -> str:
    """The text of a new recipe: ours or a shipped one, comments kept, with what the user said filled in.

    Raises UsageError for an empty value.
    """
    for option, value in (("NAME", name), ("--model", model), ("--data", data)):
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    text = shipped.text_to_copy() if shipped else START
    changes: dict[Keys, str] = {("name",): _scalar(name), ("output_dir",): _scalar(f"runs/{name}")}
    if model:
        changes[("model", "model_name_or_path")] = _scalar(model)
    if data and shipped:  # its split, columns and held-out pairs are those of other data
        changes[("dataset", "train")] = f"path: {_scalar(data)}"
        changes[("dataset", "eval")] = "test_size: 0.05"
    elif data:
        changes[("dataset", "train", "path")] = _scalar(data)
    elif shipped:
        changes |= _moved_paths(shipped, target)
    return _replaced(text, changes)


def _moved_paths(shipped: ShippedRecipe, target: Path) -> dict[Keys, str]:
    """Data that lies beside a shipped recipe, as the copy finds it."""
    dataset = yaml.safe_load(shipped.text())["dataset"]
    moved: dict[Keys, str] = {}
    for part in ("train", "eval"):
        source = dataset.get(part)
        file = shipped.path.parent / source["path"] if isinstance(source, dict) and "path" in source else None
        if file is not None and file.is_file():
            below = file.is_relative_to(target.resolve().parent)
            shown = file.relative_to(target.resolve().parent) if below else file
            moved[("dataset", part, "path")] = _scalar(shown.as_posix())
    return moved


def _replaced(text: str, changes: dict[Keys, str]) -> str:
    """``text`` with the values at these paths written anew; a path it does not hold is left out."""
    root = yaml.compose(text)
    spans = []
    for path, value in changes.items():
        node: Any = root
        for key in path:
            node = next((each for name, each in node.value if name.value == key), None)
            if node is None:
                break
        else:
            spans.append((node.start_mark.index, _end(node), value))
    for start, end, value in sorted(spans, reverse=True):  # from the end, so that the earlier places hold
        text = text[:start] + value + text[end:]
    return text


def _end(node: Any) -> int:
    """Where the last value inside ``node`` ends; the node's own mark also takes in the comments below it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _scalar(value: str) -> str:
    """``value`` as YAML text: plain where nothing in it could be read another way."""
    plain = re.fullmatch(r"(\.{0,2}/|[A-Za-z~])[\w./:~-]*", value) and yaml.safe_load(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)
