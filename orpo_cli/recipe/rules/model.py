"""Rules about the base model and its chat template."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import Recipe

# The templates of model/templates.py, which this room does not import; a test compares.
CHAT_TEMPLATES = ("chatml", "zephyr", "llama3", "mistral", "gemma", "phi3")
A_PATH = re.compile(r"[./~]|package://.*|.*\.gguf$")
NO_REVISION = "would do nothing: only a model of the hub has revisions, and this one is on disk."


def known_template(recipe: Recipe) -> Iterator[Problem]:
    """A template is a built-in name, the path of a file, or Jinja itself."""
    name = recipe.model.chat_template
    if name in ("tokenizer", *CHAT_TEMPLATES) or not re.fullmatch(r"[\w-]+", name):
        return
    close = difflib.get_close_matches(name, ("tokenizer", *CHAT_TEMPLATES), n=1)
    yield Problem(
        "unknown-template",
        f"{name!r} is no built-in template, no path of a file and no Jinja.",
        "model.chat_template",
        remedy=f"Did you mean `{close[0]}`?" if close else f"Built in: {', '.join(CHAT_TEMPLATES)}; or `tokenizer`.",
    )


def revision_of_a_file(recipe: Recipe) -> Iterator[Problem]:
    """A branch or commit chooses among the states of a repository."""
    model = recipe.model
    if model.model_revision != "main" and A_PATH.match(model.model_name_or_path):
        yield Problem("revision-unused", NO_REVISION, "model.model_revision", remedy="Remove it.")


RULES = (known_template, revision_of_a_file)
