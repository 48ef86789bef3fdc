"""Rules about the base model and its chat template."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.schema import Recipe

# The templates of model/templates.py, which this room does not import; a test compares.
CHAT_TEMPLATES = ("chatml", "zephyr", "llama3", "mistral", "gemma", "phi3")
# What transformers 5.23 needs and reads for each rope_type (modeling_rope_utils.py); rope_theta goes with all.
_LENGTH = "original_max_position_embeddings"
ROPE_ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), (_LENGTH, "attention_factor", "beta_fast", "beta_slow")),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (_LENGTH,)),
    "longrope": (("short_factor", "long_factor"), ("factor", _LENGTH, "attention_factor")),
}
LOCAL_PATH = re.compile(r"[./~]|package://.*|.*\.gguf$")
REVISION_UNUSED = "would do nothing: only a model of the hub has revisions, and this one is on disk."


def unknown_chat_template(recipe: Recipe) -> Iterator[Problem]:
    """A template is a built-in name, the path of a file, or Jinja itself."""
    name = recipe.model.chat_template
    if name in ("tokenizer", *CHAT_TEMPLATES) or not re.fullmatch(r"[\w-]+", name):
        return
    yield Problem(
        "unknown-chat-template",
        f"{name!r} is no built-in template, no path of a file and no Jinja.",
        "model.chat_template",
        remedy=did_you_mean(
            name, ("tokenizer", *CHAT_TEMPLATES), f"Built in: {', '.join(CHAT_TEMPLATES)}; or `tokenizer`."
        ),
    )


def revision_of_local_model(recipe: Recipe) -> Iterator[Problem]:
    """A branch or commit chooses among the states of a repository."""
    model = recipe.model
    if model.model_revision != "main" and LOCAL_PATH.match(model.model_name_or_path):
        yield Problem("revision-unused", REVISION_UNUSED, "model.model_revision", remedy="Remove it.")


def subfolder_of_gguf(recipe: Recipe) -> Iterator[Problem]:
    """A .gguf file is a whole model."""
    model = recipe.model
    if model.subfolder and model.model_name_or_path.endswith(".gguf"):
        yield Problem(
            "subfolder-unused",
            "would do nothing: a .gguf file has no folders.",
            "model.subfolder",
            remedy="Remove it; give the path of the file itself as model_name_or_path.",
        )


def max_memory_unused(recipe: Recipe) -> Iterator[Problem]:
    """max_memory bounds what device_map chooses."""
    model = recipe.model
    if model.max_memory is None or isinstance(model.device_map, str):
        return
    what = "a device_map that names every place" if model.device_map else "device_map"
    yield Problem(
        "max-memory-unused",
        f"would do nothing {'with' if model.device_map else 'without'} {what}.",
        "model.max_memory",
        remedy="Remove it, or set device_map: auto.",
    )


def invalid_max_memory(recipe: Recipe) -> Iterator[Problem]:
    """accelerate reads 20GB, 20GiB, 500MB; a number is one of bytes."""
    for device, most in (recipe.model.max_memory or {}).items():
        if isinstance(most, str) and not re.fullmatch(r"\d+(\.\d+)?([KMGT]i?)?B", most, re.IGNORECASE):
            yield Problem(
                "invalid-value",
                f"must be a size such as 20GiB, but is the text {most!r}.",
                f"model.max_memory.{device}",
            )
        if not (device.isdigit() or device in ("cpu", "mps", "disk")):
            yield Problem(
                "invalid-value",
                f"{device!r} is no device.",
                "model.max_memory",
                remedy="GPUs are numbered: 0, 1; and cpu.",
            )


def rope_scaling_arguments(recipe: Recipe) -> Iterator[Problem]:
    """Each way to stretch positions has its own settings."""
    rope = recipe.model.rope_scaling
    if rope is None:
        return
    if rope.rope_type is None:
        yield Problem(
            "rope-scaling",
            "does not say how: rope_type is missing.",
            "model.rope_scaling",
            remedy=f"One of {', '.join(ROPE_ARGUMENTS)}.",
        )
        return
    needed, known = ROPE_ARGUMENTS[rope.rope_type]
    given = set(rope.model_dump(exclude_none=True)) - {"rope_type", "rope_theta"}
    for name in needed:
        if name not in given:
            yield Problem(
                "rope-scaling", f"{rope.rope_type} needs {name}.", "model.rope_scaling", remedy=f"Add {name}."
            )
    for name in sorted(given - {*needed, *known}):
        yield Problem(
            "rope-scaling",
            f"would do nothing: {rope.rope_type} does not read it.",
            f"model.rope_scaling.{name}",
            remedy=f"Remove it; {rope.rope_type} has {', '.join((*needed, *known))}.",
        )


RULES = (
    unknown_chat_template,
    revision_of_local_model,
    subfolder_of_gguf,
    max_memory_unused,
    invalid_max_memory,
    rope_scaling_arguments,
)
