"""The page of docs/reference with every training argument: its type, default and meaning, and what became of former ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic.fields import FieldInfo

from orpo_cli.machine import Machine
from orpo_cli.plan.resolve import resolve
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.renamed_args import OTHER_NAMES, RENAMED_ARGS, RENAMED_OPTIMIZERS
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import GROUPS, LIBRARY_DEFAULTS, TrainingFields
from tools.docs.markdown_tables import cell, markdown_table, shown, type_of

PLAIN = "model: {model_name_or_path: some/model}\ndataset: {train: {path: pairs.jsonl}, eval: {test_size: 0.1}}\nlora: {lora_dropout: 0.1}\n"
GPU = Machine("cuda", "a GPU", 1, 80 << 30, 64 << 30, 8, True, False, 1 << 40, "3.11", "Linux")


def page(generated: str) -> str:
    """The whole page."""
    decided = names_that_a_plan_decides()
    parts = [
        f"# Training arguments\n\n{generated}",
        "The section `training` of a recipe holds the arguments of trl's `ORPOConfig`, which are those of "
        "`transformers.TrainingArguments` and a few of its own, by their own names. The default is the library's. Where it "
        "has a star, orpo-cli decides another one that suits model, data and machine; `orpo plan` shows the value and the "
        "reason.",
    ]
    for group, names in GROUPS.items():
        if settable := [name for name in names if name not in UNSUPPORTED_TRAINING_ARGS]:
            rows = [(*_argument(name, decided), cell(_field(name).description or "")) for name in settable]
            parts.append(f"## {group}\n\n{markdown_table(('argument', 'type', 'default', 'meaning'), rows)}")
    elsewhere = [(f"`{name}`", what_becomes(fate)) for name, fate in UNSUPPORTED_TRAINING_ARGS.items()]
    former = [(f"`{name}`", what_becomes(fate)) for name, fate in RENAMED_ARGS.items()]
    optimizers = [(f"`optim: {name}`", f"Read as `{now}`.") for name, now in RENAMED_OPTIMIZERS.items()]
    other = [(f"`{name}`", cell(remedy)) for name, remedy in OTHER_NAMES.items()]
    parts += [
        "## Arguments that are set elsewhere\n\nAnother section, another command or this tool itself decides them. What is "
        "read as another setting or left out is a warning, what is refused an error.",
        markdown_table(("argument", "what becomes of it"), elsewhere),
        "## Former names\n\nArguments that `ORPOConfig` had in April 2024 and has no more, and values of `optim`. What is read "
        "as another setting or left out is a warning, what is refused an error.",
        markdown_table(("argument", "what becomes of it"), [*former, *optimizers]),
        "## Other names\n\nThese are unknown keys; the error says:",
        markdown_table(("written", "answer"), other),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def names_that_a_plan_decides() -> set[str]:
    """The arguments for which the plan of a plain recipe has a reason of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(PLAIN)
        why = resolve(load_recipe(f"{folder}/recipe.yaml"), GPU).why
    return {path.removeprefix("training.") for path, reason in why.items() if reason.origin == "decided"}


def what_becomes(fate: ArgumentPolicy) -> str:
    """What becomes of an argument, in a cell."""
    if fate.new_path is not None:
        done = f"Read as `{fate.new_path}`."
    elif fate.supported:
        done = "A setting of this tool."
    elif fate.ignored:
        done = "Left out."
    else:
        done = "Refused."
    if fate.noop_values and not fate.secret:
        done += f" Left out as {' or '.join(f'`{shown(value)}`' for value in fate.noop_values)}."
    return cell(" ".join(filter(None, (fate.reason, done, fate.remedy))))


def _argument(name: str, decided: set[str]) -> tuple[str, str, str]:
    star = " *" if name in decided else ""
    return f"`{name}`", type_of(_field(name)), f"`{shown(LIBRARY_DEFAULTS[name])}`{star}"


def _field(name: str) -> FieldInfo:
    return TrainingFields.model_fields[name]
