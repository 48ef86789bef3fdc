"""Key reference: what a key of a recipe does, its type, default and allowed values, from the schema (`orpo explain KEY`)."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orpo_cli.errors import DOCS, UsageError
from orpo_cli.recipe.did_you_mean import closest_name, did_you_mean_key, full_key, models_in
from orpo_cli.recipe.field_types import as_yaml, default_of, literals, type_of
from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
from orpo_cli.recipe.legacy.unsupported_launch_args import UNSUPPORTED_LAUNCH_ARGS
from orpo_cli.recipe.legacy.unsupported_peft_args import UNSUPPORTED_PEFT_ARGS
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.json_schema import policy_text
from orpo_cli.recipe.schema.training import TRAINING_EXAMPLES
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

INDEX = re.compile(r"\[\d+\]|\.\d+(?=\.|$)")  # of a list: dataset.train[0].path, dataset.train.0.path


@dataclass(frozen=True)
class KeyReference:
    """Description of a key. Texts are as a recipe has them; ``type`` and ``default`` are None for a section and for a former key."""

    key: str  # dotted name
    description: str
    type: str | None = None  # with its bounds
    values: tuple[str, ...] = ()  # all that are allowed, where they are a fixed set
    default: str | None = None
    examples: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()  # of a section
    same_name: tuple[str, ...] = ()  # keys of other sections that a name without a section may also mean

    def lines(self) -> list[str]:
        """The reference as Markdown, a paragraph or list item per line."""
        facts = {
            "type": None if self.values else self.type,
            "values": ", ".join(self.values),
            "default": self.default,
            "example": " or ".join(each for each in self.examples if each not in self.values),
            "keys": ", ".join(self.keys),
            "other keys of this name": ", ".join(self.same_name),
        }
        return [
            f"# {self.key}",
            "",
            self.description,
            "",
            *(f"- {name}: {text}" for name, text in facts.items() if text),
        ]


def read_key(text: str) -> KeyReference:
    """The reference of a key: dotted, without its section (``beta``), or of a former training argument.

    Raises UsageError with the most similar key if there is no such key.
    """
    name = INDEX.sub("", text)
    if "." not in name and name not in Recipe.model_fields and (full := full_key(name)):
        found = read_key(full)
        others = [f"{section}.{name}" for section in Recipe.model_fields if _fields(f"{section}.{name}")]
        return KeyReference(**{**vars(found), "same_name": tuple(each for each in others if each != full)})
    policy = _policy(name)
    fields = _fields(name)
    if policy is not None and not policy.supported:
        reason = policy.reason[:1].upper() + policy.reason[1:].removesuffix(".") + "."
        return KeyReference(name, policy_text(replace(policy, reason=reason)))
    if not fields:
        raise _unknown(text, name)
    field = fields[0]
    models = models_in(field.annotation)
    if models:
        names = dict.fromkeys(key for model in models for key in model.model_fields)
        keys = [key for key in names if (former := _policy(f"{name}.{key}")) is None or former.supported]
        described = field.description or models[0].__doc__ or ""
        return KeyReference(name, " ".join(described.split()), keys=tuple(keys))
    argument = name.removeprefix("training.")
    default = (
        as_yaml(LIBRARY_DEFAULTS[argument]) if argument in LIBRARY_DEFAULTS else default_of(field).replace("`", "")
    )
    examples = [as_yaml(each) for each in TRAINING_EXAMPLES.get(argument, field.examples or [])]
    return KeyReference(
        name,
        field.description or "",
        type_of(field).replace("`", ""),
        tuple(map(as_yaml, literals(field.annotation))),
        f"{default}, the library's; a plan may decide another (`orpo explain {name} RECIPE` shows it)"
        if argument in LIBRARY_DEFAULTS
        else default,
        tuple(each for each in examples if each != default),
    )


def _fields(name: str) -> list[FieldInfo]:
    """The fields of the schema at a dotted name: several where a union of sections has the key twice."""
    models: list[type[BaseModel]] = [Recipe]
    fields: list[FieldInfo] = []
    for part in name.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in models_in(field.annotation)]
    return fields


def _policy(name: str) -> ArgumentPolicy | None:
    section, _, key = name.partition(".")
    policies: dict[str, Any] = {
        "training": ARGUMENT_POLICIES,
        "launch": UNSUPPORTED_LAUNCH_ARGS,
        **UNSUPPORTED_PEFT_ARGS,
    }
    return typing.cast("ArgumentPolicy | None", policies.get(section, {}).get(key))


def _unknown(text: str, name: str) -> UsageError:
    section, _, key = name.rpartition(".")
    if section and _fields(section):
        remedy = did_you_mean_key(key, tuple(section.split(".")))
    else:
        sections = {name: models_in(field.annotation) for name, field in Recipe.model_fields.items()}
        dotted = [
            f"{each}.{key}" for each, models in sections.items() for model in models for key in model.model_fields
        ]
        known = {each if section else each.rpartition(".")[2]: each for each in (*sections, *reversed(dotted))}
        otherwise = f"`orpo explain` lists the problem codes. The keys of a recipe: {DOCS}/reference/recipe.md"
        remedy = f"Did you mean `{known[close]}`?" if (close := closest_name(name, known)) else otherwise
    return UsageError(f"{text}: no such key of a recipe.", remedy=remedy)
