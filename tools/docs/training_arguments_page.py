"""Training arguments page of docs/reference: type, default and meaning of each argument, and how former names are handled."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic.fields import FieldInfo

from orpo_cli.machine import Machine
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.did_you_mean import KEYS_OF_OTHER_TOOLS
from orpo_cli.recipe.field_types import as_yaml, type_of
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.renamed_args import RENAMED_ARGS, RENAMED_OPTIMIZERS
from orpo_cli.recipe.legacy.unsupported_training_args import UNSUPPORTED_TRAINING_ARGS
from orpo_cli.recipe.load import load_recipe
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS, TrainingFields
from tools.argument_descriptions import ARGUMENT_DESCRIPTIONS
from tools.docs.markdown_tables import cell, markdown_table

MINIMAL_RECIPE = "model: {model_name_or_path: some/model}\ndataset: {train: {path: pairs.jsonl}, eval: {test_size: 0.1}}\nlora: {lora_dropout: 0.1}\n"
GPU = Machine("cuda", "a GPU", 1, 80 << 30, 64 << 30, 8, True, False, 1 << 40, "3.11", "Linux")


def page(generated: str) -> str:
    """Text of the page."""
    decided = names_decided_by_the_plan()
    parts = [
        f"# Training arguments\n\n{generated}",
        "The section `training` of a recipe has the arguments of trl's `ORPOConfig`: those of "
        "`transformers.TrainingArguments` and a few more. The default in the table is the library's. For an argument with a "
        "star, orpo-cli chooses another default for the model, the data and the machine; `orpo plan` shows the value and "
        "the reason.",
    ]
    for group, names in ARGUMENT_DESCRIPTIONS.items():
        if settable := [
            name for name in names if name in TrainingFields.model_fields.keys() - UNSUPPORTED_TRAINING_ARGS
        ]:
            rows = [(*_argument(name, decided), cell(_field(name).description or "")) for name in settable]
            parts.append(f"## {group}\n\n{markdown_table(('argument', 'type', 'default', 'meaning'), rows)}")
    elsewhere = [(f"`{name}`", handling(policy)) for name, policy in UNSUPPORTED_TRAINING_ARGS.items()]
    former = [(f"`{name}`", handling(policy)) for name, policy in RENAMED_ARGS.items()]
    optimizers = [(f"`optim: {name}`", f"Read as `{now}`.") for name, now in RENAMED_OPTIMIZERS.items()]
    other = [(f"`{name}`", f"`{here}`") for name, here in KEYS_OF_OTHER_TOOLS["training"].items()]
    parts += [
        "## Arguments that are set elsewhere\n\nThese are set by another section, another command or orpo-cli itself. An "
        "argument that is converted to another setting or left out causes a warning; a refused argument is an error.",
        markdown_table(("argument", "handling"), elsewhere),
        "## Former names\n\nArguments that `ORPOConfig` had in April 2024 and no longer has, and former values of `optim`. An "
        "argument that is converted to another setting or left out causes a warning; a refused argument is an error.",
        markdown_table(("argument", "handling"), [*former, *optimizers]),
        "## Names of other tools\n\nThese keys are unknown. The error message has the name to use.",
        markdown_table(("other name", "name here"), other),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def names_decided_by_the_plan() -> set[str]:
    """Names of the arguments whose value in the plan of a minimal recipe is not the library's default."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(MINIMAL_RECIPE)
        why = resolve(load_recipe(f"{folder}/recipe.yaml"), GPU).why
    return {path.removeprefix("training.") for path, reason in why.items() if reason.origin == "decided"}


def handling(policy: ArgumentPolicy) -> str:
    """Table cell that describes how an argument is handled."""
    if policy.new_path is not None:
        done = f"Read as `{policy.new_path}`."
    elif policy.supported:
        done = "A setting of orpo-cli."
    elif policy.ignored:
        done = "Left out."
    else:
        done = "Refused."
    if policy.noop_values and not policy.secret:
        done += f" Left out as {' or '.join(f'`{as_yaml(value)}`' for value in policy.noop_values)}."
    return cell(" ".join(filter(None, (policy.reason, done, policy.remedy))))


def _argument(name: str, decided: set[str]) -> tuple[str, str, str]:
    star = " *" if name in decided else ""
    return f"`{name}`", cell(type_of(_field(name))), f"`{as_yaml(LIBRARY_DEFAULTS[name])}`{star}"


def _field(name: str) -> FieldInfo:
    return TrainingFields.model_fields[name]
