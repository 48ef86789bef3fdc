"""What several tools have in common beside training arguments: templates, trackers, a dead dropout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.rules.model import CHAT_TEMPLATES

BUILT_IN = frozenset(CHAT_TEMPLATES)
DROPOUT_IGNORED = "It did nothing there: trl's disable_dropout, on by default, sets it to zero."


def keep_template(draft: Draft, inline: str | None = None) -> None:
    """``chat_template``: a built-in name, or the template itself, there or under the key ``inline``."""
    name = draft.peek("chat_template")
    if inline is not None and draft.has(inline):
        draft.keep(inline, "model.chat_template")
        draft.join("chat_template", "model.chat_template")
    elif isinstance(name, str) and (name in BUILT_IN or "{%" in name or "{{" in name):
        draft.keep("chat_template", "model.chat_template")
    elif isinstance(name, str) and name.startswith("tokenizer_default"):
        draft.keep("chat_template", "model.chat_template", "tokenizer")
    elif name is not None:
        draft.leave_out(
            "chat_template",
            "No built-in template has this name: the tokenizer's own is used, which is right for a model of that family "
            "that was tuned for chat. For a base model write the path of a .jinja file as model.chat_template.",
        )
    for key in ("chat_template", inline or ""):
        draft.join(key, "model.chat_template")


def add_no_evaluation(draft: Draft, tool: str) -> None:
    """Where there are held-out pairs and nobody says when to judge them: never, as in transformers."""
    if any(path[:2] == ("dataset", "eval") for path in draft.values):
        draft.add("training.eval_strategy", "no", f"{tool} does not use the held-out pairs without eval_strategy")


def add_prompt_length(draft: Draft, length: Any, note: str) -> None:
    """Prompts may fill ``length``, the longest pair in tokens, and one that is longer is left out instead of cut."""
    if isinstance(length, int):
        draft.add("dataset.truncation_mode", "drop", note)
        draft.add("dataset.max_prompt_length", max(1, length - 1), f"room for the longest prompt; {note}")


def add_trackers(draft: Draft, trackers: Sequence[tuple[str, str]], variables: Mapping[str, str]) -> None:
    """``report_to`` with the trackers that keys switch on: (tracker, key). ``variables``: keys that are environment here."""
    for index, (_, key) in enumerate(trackers):
        if index == 0 and draft.has(key):
            draft.put(key, draft.peek(key), "training.report_to", value=[name for name, _ in trackers])
        elif draft.has(key):
            draft.record(key, draft.peek(key), "kept", ("training", "report_to"))
        if key not in variables:
            del draft.source[key]
    for key, variable in variables.items():
        if draft.has(key) and any(key == other for _, other in trackers):
            kept = draft.outcomes[key]
            draft.record(key, kept.value, "kept", kept.path, f"set {variable}={kept.value} in the environment")
            del draft.source[key]
        draft.leave_out(key, f"Set the environment variable {variable}.")
