"""JSON Schema (draft 2020-12) of a recipe: for editors, and to check recipes without orpo-cli.

It is the schema of pydantic with additions: references to environment variables, null for unset keys, former names of training
arguments, defaults of the libraries, examples, and optional keys in recipes that extend another one. Cross-field rules are not
part of it; ``orpo validate`` checks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from orpo_cli.recipe.legacy.argument_policy import ArgumentPolicy
from orpo_cli.recipe.legacy.fsdp_config import NAMES, RENAMED, WITHOUT_COUNTERPART
from orpo_cli.recipe.legacy.migration import ARGUMENT_POLICIES
from orpo_cli.recipe.legacy.renamed_args import RENAMED_OPTIMIZERS
from orpo_cli.recipe.schema import Recipe
from orpo_cli.recipe.schema.training import TRAINING_EXAMPLES
from orpo_cli.recipe.schema.training_fields import LIBRARY_DEFAULTS

Schema = dict[str, Any]

REFERENCE: Schema = {"$ref": "#/$defs/reference"}
TEXT_WITH_REFERENCE: Schema = {"$ref": "#/$defs/text_with_reference"}
SOURCE: Schema = {"$ref": "#/$defs/source"}  # used several times, so it is defined once
NULL: Schema = {"type": "null"}
BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
NOTES = ("description", "default", "examples")
NOT_SUGGESTED = {"deprecated": True, "doNotSuggest": True}  # the latter is for editors with the JSON service of VS Code
ONE_REFERENCE = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-((?!\$\{)[^}])*)?\}"

# Values of former arguments that are converted. Other former arguments have the values of their new setting.
CONVERTED_ARGUMENTS: dict[str, Schema] = {
    "fsdp": {
        "anyOf": [
            {"const": True},
            {"type": "string", "pattern": r"^\s*(full_shard|auto_wrap)(\s+(full_shard|auto_wrap))*\s*$"},
            {"type": "array", "minItems": 1, "items": {"enum": ["full_shard", "auto_wrap", True]}},
        ]
    },
    "fsdp_config": {
        "type": "object",
        "propertyNames": {"pattern": f"^(fsdp_)?({'|'.join(sorted({*NAMES, *RENAMED, *WITHOUT_COUNTERPART}))})$"},
    },
    "fsdp_transformer_layer_cls_to_wrap": {
        "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]
    },
    "adafactor": {"const": True},
    "group_by_length": {"const": True},
    "warmup_ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
}


def recipe_schema() -> Schema:
    """The schema as JSON-ready values."""
    raw = Recipe.model_json_schema()
    converter = _SchemaConverter(raw.pop("$defs"))
    schema = converter.mapping(raw)
    for section in ("model", "dataset"):
        _mapping_in(schema["properties"][section]).pop("required")
    _add_training_arguments(schema)
    source = converter.mapping(converter.definitions["Source"])
    source.pop("required")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of orpo-cli",
        **{key: value for key, value in schema.items() if key != "required"},
        "if": {"required": ["extends"], "properties": {"extends": {"type": "string"}}},
        "else": _required_without_extends(),
        "$defs": {
            "source": source,
            "reference": {
                "description": "Reference to an environment variable: ${NAME} or ${NAME:-default}. Its value is read as YAML.",
                "type": "string",
                "pattern": f"^{ONE_REFERENCE}$",
            },
            "text_with_reference": {
                "description": "Text with references to environment variables: ${NAME} or ${NAME:-default}.",
                "type": "string",
                "pattern": ONE_REFERENCE,
            },
        },
    }


def _required_without_extends() -> Schema:
    """Required keys of a recipe without ``extends``. ``required`` applies only to mappings."""
    eval_needs = {"anyOf": [{"required": ["test_size"]}, {"required": ["path"]}]}
    return {
        "required": ["model", "dataset"],
        "properties": {
            "model": {"required": ["model_name_or_path"]},
            "dataset": {
                "required": ["train"],
                "properties": {"train": {"required": ["path"]}, "eval": eval_needs},
            },
        },
    }


class _SchemaConverter:
    """Converter from the schema of pydantic: it inlines sections and allows references to environment variables."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self.definitions = definitions

    def value(self, schema: Schema) -> Schema:
        """Schema of a value: one of ``anyOf``, or text, in which references are allowed."""
        alternatives = _unique([self.alternative(each) for each in self.alternatives(schema)])
        notes = {key: schema[key] for key in NOTES if schema.get(key) not in (None, {}, [])}
        for each in alternatives:
            if "properties" in each and "description" in each:
                notes.setdefault("description", each.pop("description"))
        if "examples" not in notes and (examples := list(_examples(alternatives, notes.get("default")))):
            notes["examples"] = examples
        if all(each.get("type") != "string" for each in alternatives):
            return {**notes, "anyOf": [*alternatives, REFERENCE]}
        if any(each.get("type") == "string" and each.keys() <= {"type", "minLength"} for each in alternatives):
            return {**notes, **alternatives[0]} if len(alternatives) == 1 else {**notes, "anyOf": alternatives}
        return {**notes, "anyOf": [*alternatives, TEXT_WITH_REFERENCE]}

    def alternatives(self, schema: Schema) -> Iterator[Schema]:
        """The members of a nested union, each with the bounds of the union."""
        bounds = {BOUNDS[key]: schema[key] for key in BOUNDS if key in schema}
        if members := schema.get("anyOf") or schema.get("oneOf"):
            for member in members:
                for each in self.alternatives(member):
                    yield {**each, **bounds} if each.get("type") in ("number", "integer") else each
        elif schema.get("$ref", "#/$defs/Source") != "#/$defs/Source":
            yield self.definitions[schema["$ref"].removeprefix("#/$defs/")]
        else:
            yield schema

    def alternative(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            return SOURCE
        if "properties" in schema:
            return self.mapping(schema)
        own = {key: value for key, value in schema.items() if key not in ("title", *NOTES)}
        if "items" in own:
            source = own["items"].get("$ref") == "#/$defs/Source"
            own["items"] = {"allOf": [SOURCE, {"required": ["path"]}]} if source else self.value(own["items"])
        if isinstance(own.get("additionalProperties"), dict):
            own["additionalProperties"] = self.value(own["additionalProperties"])
        return own

    def mapping(self, schema: Schema) -> Schema:
        """Schema of a section or of the recipe."""
        required = schema.get("required", ())
        properties = {
            name: self.value(each if name in required else {**each, "anyOf": [*self.alternatives(each), NULL]})
            for name, each in schema["properties"].items()
        }
        kept: Schema = {key: schema[key] for key in ("description", "type", "required") if key in schema}
        return {**kept, "properties": properties, "additionalProperties": False}


def _examples(alternatives: list[Schema], default: Any) -> Iterator[Any]:
    """Examples from the schema: choices, true and false, otherwise the default."""
    for each in alternatives:
        if each.get("type") == "boolean":
            yield from (True, False)
        elif "const" in each:
            yield each["const"]
        else:
            yield from each.get("enum", ())
    if default is not None and not any("enum" in each or each.get("type") == "boolean" for each in alternatives):
        yield default


def _add_training_arguments(schema: Schema) -> None:
    """Add the defaults of the libraries, and former arguments."""
    properties = _mapping_in(schema["properties"]["training"])["properties"]
    for name, value in properties.items():
        if (default := LIBRARY_DEFAULTS.get(name)) not in (None, "", {}, []):
            value["default"] = default
            value.setdefault("examples", [default])
        if name in TRAINING_EXAMPLES:
            value["examples"] = deepcopy(TRAINING_EXAMPLES[name])
    properties["optim"]["anyOf"].append({"enum": sorted(RENAMED_OPTIMIZERS), **NOT_SUGGESTED})
    for name, policy in ARGUMENT_POLICIES.items():
        if not policy.supported:
            properties[name] = _legacy_argument(name, policy, schema)


def policy_text(policy: ArgumentPolicy) -> str:
    """Why an argument is renamed, moved, ignored or refused, and what to write in its place."""
    if policy.new_path is not None:
        does = f"Read as `{policy.new_path}`."
    elif policy.ignored:
        does = "Ignored."
    else:
        does = "Ignored with this value, otherwise refused." if policy.noop_values else "Refused."
    return " ".join(filter(None, (policy.reason, does, policy.remedy)))


def _legacy_argument(name: str, policy: ArgumentPolicy, schema: Schema) -> Schema:
    """Schema of an argument that is renamed, moved, ignored or refused."""
    section, _, setting = (policy.new_path or "").partition(".")
    refused = section == "training" and setting.partition(".")[0] in ARGUMENT_POLICIES  # the new setting is refused too
    text = policy_text(policy)
    notes = {"description": text, **NOT_SUGGESTED}
    if policy.ignored:
        return notes
    alternatives: list[Schema] = [NULL, *({"const": value} for value in policy.noop_values)]
    if policy.new_path is not None and not refused:
        alternatives += [CONVERTED_ARGUMENTS[name]] if policy.convert else _alternatives_at(policy.new_path, schema)
        alternatives += [REFERENCE]
    return {**notes, "errorMessage": text, "anyOf": deepcopy(_unique(alternatives))}


def _alternatives_at(path: str, schema: Schema) -> list[Schema]:
    """The alternatives of the value at a dotted path; any value inside a mapping with free keys."""
    current = schema
    for part in path.split("."):
        mapping = _mapping_in(current)
        if "properties" not in mapping:
            return [{}]
        current = mapping["properties"][part]
    alternatives: list[Schema] = current.get("anyOf") or [
        {key: each for key, each in current.items() if key not in NOTES}
    ]
    return alternatives


def _mapping_in(value: Schema) -> Schema:
    """The mapping among the alternatives of a value."""
    return next(each for each in (value, *value.get("anyOf", ())) if each.get("type") == "object")


def _unique(schemas: list[Schema]) -> list[Schema]:
    return [each for index, each in enumerate(schemas) if each not in schemas[:index]]
