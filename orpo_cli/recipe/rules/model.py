"""Rules about the base model: chat template, revision, device map and rotary positions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.did_you_mean import did_you_mean
from orpo_cli.recipe.hub_address import address_remedy, is_address
from orpo_cli.recipe.schema import Recipe

# Built-in chat templates. They are repeated here because recipe/ does not import model/; a test compares both.
CHAT_TEMPLATES = ("chatml", "zephyr", "llama3", "mistral", "gemma", "phi3")
# Required and optional arguments of each rope_type in transformers 5.23 (modeling_rope_utils.py); all use rope_theta.
_LENGTH = "original_max_position_embeddings"
ROPE_ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), (_LENGTH, "attention_factor", "beta_fast", "beta_slow")),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (_LENGTH,)),
    "longrope": (("short_factor", "long_factor"), ("factor", _LENGTH, "attention_factor")),
}
LOCAL_PATH = re.compile(r"[./~]|package://.*|.*\.gguf$")
REVISION_UNUSED = "has no effect: only models on the hub have revisions, but this one is on disk."


def unknown_chat_template(recipe: Recipe) -> Iterator[Problem]:
    """A template is a built-in name, the path of a file, or a Jinja template."""
    name = recipe.model.chat_template
    if name in ("tokenizer", *CHAT_TEMPLATES) or not re.fullmatch(r"[\w-]+", name):
        return
    yield Problem(
        "unknown-chat-template",
        f"{name!r} is not a built-in template, the path of a file or a Jinja template.",
        "model.chat_template",
        remedy=did_you_mean(
            name, ("tokenizer", *CHAT_TEMPLATES), f"Built-in templates: {', '.join(CHAT_TEMPLATES)}; or `tokenizer`."
        ),
    )


def model_address(recipe: Recipe) -> Iterator[Problem]:
    """A model is the id of a repository or a path, not the address of a web page."""
    name = recipe.model.model_name_or_path
    if is_address(name):
        yield Problem(
            "model-address", "is a web address, not a model.", "model.model_name_or_path", remedy=address_remedy(name)
        )


def revision_of_local_model(recipe: Recipe) -> Iterator[Problem]:
    """Only hub repositories have branches and commits."""
    model = recipe.model
    if model.model_revision != "main" and LOCAL_PATH.match(model.model_name_or_path):
        yield Problem("revision-unused", REVISION_UNUSED, "model.model_revision", remedy="Remove it.")


def subfolder_of_gguf(recipe: Recipe) -> Iterator[Problem]:
    """A .gguf file contains the complete model."""
    model = recipe.model
    if model.subfolder and model.model_name_or_path.endswith(".gguf"):
        yield Problem(
            "subfolder-unused",
            "has no effect: a .gguf file has no directories.",
            "model.subfolder",
            remedy="Remove it, and set model_name_or_path to the path of the file.",
        )


def max_memory_unused(recipe: Recipe) -> Iterator[Problem]:
    """max_memory limits what device_map chooses, and a complete mapping leaves no choice."""
    model = recipe.model
    if model.max_memory is None or isinstance(model.device_map, str):
        return
    yield Problem(
        "max-memory-unused",
        f"has no effect {'with a complete device_map' if model.device_map else 'without device_map'}.",
        "model.max_memory",
        remedy="Remove it, or set device_map: auto.",
    )


def invalid_max_memory(recipe: Recipe) -> Iterator[Problem]:
    """accelerate reads sizes such as 20GB, 20GiB and 500MB; a number is a number of bytes."""
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
                f"{device!r} is not a device.",
                "model.max_memory",
                remedy="Use the number of a GPU (0, 1, …), or cpu.",
            )


def rope_scaling_arguments(recipe: Recipe) -> Iterator[Problem]:
    """Each rope_type has its own arguments."""
    rope = recipe.model.rope_scaling
    if rope is None:
        return
    if rope.rope_type is None:
        yield Problem(
            "rope-scaling",
            "needs rope_type.",
            "model.rope_scaling",
            remedy=f"Add one of {', '.join(ROPE_ARGUMENTS)}.",
        )
        return
    required, optional = ROPE_ARGUMENTS[rope.rope_type]
    given = set(rope.model_dump(exclude_none=True)) - {"rope_type", "rope_theta"}
    for name in required:
        if name not in given:
            yield Problem(
                "rope-scaling", f"{rope.rope_type} needs {name}.", "model.rope_scaling", remedy=f"Add {name}."
            )
    for name in sorted(given - {*required, *optional}):
        yield Problem(
            "rope-scaling",
            f"has no effect: {rope.rope_type} does not use it.",
            f"model.rope_scaling.{name}",
            remedy=f"Remove it; {rope.rope_type} uses {', '.join((*required, *optional))}.",
        )
