"""`orpo init`: write a new recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from orpo_cli.atomic import atomic_write_text
from orpo_cli.cli.completion import complete_shipped
from orpo_cli.cli.options import Force, Json, Quiet
from orpo_cli.errors import DataError
from orpo_cli.recipe.source.shipped_recipes import shipped_recipe
from orpo_cli.report.console import Console
from orpo_cli.workflows.init import (
    RATE_OF_OTHER_DATA,
    InspectedData,
    data_files_to_copy,
    inspect_data,
    missing_model_packages,
    new_recipe_text,
    steps_of_few_pairs,
)
from orpo_cli.workflows.output_file import check_output_file


def command(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the recipe and of its run.")] = "recipe",
    shipped: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SHIPPED",
            autocompletion=complete_shipped,
            help="Shipped recipe to copy, with its data (`orpo recipes` lists them).",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; default: NAME.yaml.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="Value of model.model_name_or_path.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Value of dataset.train.path; of a file, the columns are found, too."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a new recipe, with comments on the usual values.

    `orpo plan` shows the values that it leaves open.

    [bold]Examples[/bold]

      orpo init
      orpo init helpful --model Qwen/Qwen2.5-0.5B --data pairs.jsonl
      orpo init mine --from quickstart -o recipes/mine.yaml
    """
    console = Console(quiet=quiet, as_json=as_json)
    name = re.sub(r"\.ya?ml$", "", name)
    path, name = output or Path(f"{name}.yaml"), Path(name).name
    source = shipped_recipe(shipped) if shipped else None
    inspected = inspect_data(data) if data and data.strip() else InspectedData()
    if inspected.problem and not inspected.has_rows and force and path.is_file():
        raise DataError(
            f"{path} is not overwritten, because its data cannot be used: {inspected.problem}",
            remedy=f"{'Change' if Path(data or '').exists() else 'First write your pairs to'} {data}, or give another path (--data).",
        )
    if inspected.problem:  # before the check, so that an existing recipe does not hide it
        console.warn(inspected.problem)
    check_output_file(path, overwrite=force, option="NAME or --output")
    for note in inspected.notes:
        console.note(note)
    if inspected.doubt:
        console.warn(inspected.doubt)
    text = new_recipe_text(name, source, model, data, inspected.columns, inspected.few_rows is not None)
    if inspected.few_rows is not None:
        console.note(f"{data} has {inspected.few_rows} rows: {steps_of_few_pairs(text)}")
    copies = data_files_to_copy(source, path, overwrite=force) if source and not data else {}
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(copy, file.read_text(encoding="utf-8"))
        console.note(f"copied {copy}")
    atomic_write_text(path, text)
    console.result(f"wrote {path}")
    if data and source:
        changed = {"learning_rate": RATE_OF_OTHER_DATA in text, "num_train_epochs": inspected.few_rows is not None}
        but = ", except " + " and ".join(name for name in changed if changed[name]) if any(changed.values()) else ""
        others = [name for name in ("learning_rate", "num_train_epochs") if not changed[name]]
        look = ", ".join([*others, "beta"])
        console.note(
            f"The values of training are those of {source.name}, chosen for its own data{but}: look at {look} and max_length, too."
        )
    if not data and not source and not Path("pairs.jsonl").exists():
        console.note(
            f"First write your pairs to pairs.jsonl, or set dataset.train.path in {path} (--data PATH sets it)."
        )
    if inspected.problem:
        columns = f"write the `columns:` line in {path}, " * inspected.has_rows
        change = f"{columns}change {data}" if Path(data or "").exists() else f"write your pairs to {data}"
        console.note(f"First solve the problem with the data: {change}, or set dataset.train.path in {path}.")
    for line in missing_model_packages(text):
        console.note(line)
    console.note(
        f"Next:\n  orpo validate {path}    reports every error, with its line\n"
        f"  orpo data {path}        shows which rows are used, and why others are dropped\n"
        f"  orpo plan {path}        shows memory, time and the main decisions (--all: every value)\n  orpo train {path}"
    )
    console.document(
        {"status": "ok", "path": path, "name": name, **({"data": list(copies.values())} if copies else {})}
    )
