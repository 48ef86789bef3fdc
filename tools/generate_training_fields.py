"""Generator of ``orpo_cli/recipe/schema/training_fields.py``: all arguments of the pinned TRL's ORPOConfig as a pydantic section.

Run ``python -m tools.generate_training_fields`` after the TRL pin moves; ``tests/unit`` fails while the file is out of date.
The generated module can be imported without torch.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from pathlib import Path
from typing import Any

from tools.argument_descriptions import ARGUMENT_DESCRIPTIONS

TARGET = Path(__file__).parents[1] / "orpo_cli" / "recipe" / "schema" / "training_fields.py"

# The libraries only document these bounds or check them late; a recipe is checked before anything is loaded.
BOUNDS = {
    "learning_rate": "gt=0",
    "beta": "ge=0",
    "max_length": "ge=2",
    "max_completion_length": "ge=1",
    "per_device_train_batch_size": "ge=1",
    "per_device_eval_batch_size": "ge=1",
    "gradient_accumulation_steps": "ge=1",
    "num_train_epochs": "gt=0",
    "max_steps": "ge=-1",
    "warmup_steps": "ge=0",
    "weight_decay": "ge=0",
    "adam_beta1": "ge=0, lt=1",
    "adam_beta2": "ge=0, lt=1",
    "adam_epsilon": "gt=0",
    "max_grad_norm": "ge=0",
    "logging_steps": "gt=0",
    "eval_steps": "gt=0",
    "save_steps": "gt=0",
    "eval_delay": "ge=0",
    "save_total_limit": "ge=1",
    "seed": "ge=0, lt=2**32",  # numpy.random.seed; data_seed is only for torch, which takes 64 bits
    "data_seed": "ge=0",
    "dataloader_num_workers": "ge=0",
    "dataset_num_proc": "ge=1",
    "dataloader_prefetch_factor": "ge=1",
    "neftune_noise_alpha": "gt=0",
    "torch_empty_cache_steps": "ge=1",
    "eval_accumulation_steps": "ge=1",
    "ddp_timeout": "ge=1",
    "ddp_bucket_cap_mb": "ge=1",
}


def annotation(field: dataclasses.Field[Any], hint: Any) -> str:
    """Source text of a field's type: an enum becomes a Literal of its values, a library type becomes a mapping."""
    if choices := field.metadata.get("choices"):
        hint = typing.Literal[tuple(choices)]
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    enums = [member for member in members if isinstance(member, type) and issubclass(member, enum.Enum)]
    texts = []
    for member in members:
        if member in enums:
            texts.append("Literal[" + ", ".join(f'"{value.value}"' for value in member) + "]")
        elif member is str and enums:
            continue  # `SchedulerType | str`: the enum already has all names
        elif member is type(None):
            texts.append("None")
        elif member in (bool, int, float, str):
            texts.append(member.__name__)
        elif member is dict or typing.get_origin(member) is dict:
            texts.append("dict[str, Any]")
        elif typing.get_origin(member) is list:
            texts.append("list[str]")
        elif typing.get_origin(member) is typing.Literal:
            texts.append(f"Literal[{', '.join(_source(value) for value in typing.get_args(member))}]")
        else:  # a class of a library (accelerate.ParallelismConfig), given by its arguments
            texts.append("dict[str, Any]")
    if "None" not in texts:
        texts.append("None")
    return " | ".join(dict.fromkeys(text for text in texts if text != "None")) + " | None"


def library_default(field: dataclasses.Field[Any]) -> Any:
    """Default of the library as a plain value."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return value.value if isinstance(value, enum.Enum) else value


def _source(value: Any) -> str:
    """Python source of a plain value, with double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def checked_descriptions(names: set[str]) -> dict[str, str]:
    """Descriptions of all arguments. Raises ValueError if an argument has no description or a description no argument."""
    written = [name for group in ARGUMENT_DESCRIPTIONS.values() for name in group]
    if missing := sorted(names ^ set(written)):
        raise ValueError(f"argument_descriptions.py and the library differ in {', '.join(missing)}")
    if twice := sorted({name for name in written if written.count(name) > 1}):
        raise ValueError(f"argument_descriptions.py has two descriptions for {', '.join(twice)}")
    return {name: text for group in ARGUMENT_DESCRIPTIONS.values() for name, text in group.items()}


def render() -> str:
    """Source text of the generated module."""
    import trl
    from transformers import __version__ as transformers_version
    from trl.experimental.orpo import ORPOConfig

    hints = typing.get_type_hints(ORPOConfig)
    arguments = {field.name: field for field in dataclasses.fields(ORPOConfig) if field.init}
    descriptions = checked_descriptions(set(arguments))
    fields = [arguments[name] for name in descriptions if name != "output_dir"]  # a recipe has it at the top
    lines = [
        f'"""Every argument of trl {trl.__version__}\'s ORPOConfig (transformers {transformers_version}). Generated, do not edit:',
        "",
        "    python -m tools.generate_training_fields",
        "",
        "A field is None if the recipe does not set it; ``LIBRARY_DEFAULTS`` has the value that the library then uses.",
        '"""',
        "",
        "",
        "from typing import Any, Literal",
        "",
        "from pydantic import Field",
        "",
        "from orpo_cli.recipe.schema.section import Section",
        "",
        "",
        "class TrainingFields(Section):",
        '    """Arguments of trl ORPOConfig and transformers TrainingArguments."""',
        "",
    ]
    for field in fields:
        bounds = f", {BOUNDS[field.name]}" if field.name in BOUNDS else ""
        description = f"description={_source(descriptions[field.name])}"
        lines.append(f"    {field.name}: {annotation(field, hints[field.name])} = Field(None{bounds}, {description})")
    lines += ["", "", "LIBRARY_DEFAULTS: dict[str, Any] = {"]
    lines += [f"    {_source(field.name)}: {_source(library_default(field))}," for field in fields]
    lines += ["}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    TARGET.write_text(render())
    print(f"wrote {TARGET}")
