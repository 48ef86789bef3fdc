"""Conversions that several tools need besides training arguments: sources, adapters, quantization, templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orpo_cli.recipe.convert.draft import Draft
from orpo_cli.recipe.rules.model import CHAT_TEMPLATES

BUILT_IN = frozenset(CHAT_TEMPLATES)
IS_ORPO = "orpo-cli always trains with ORPO."
DROPOUT_IGNORED = "It had no effect: trl's disable_dropout, on by default, sets the dropout to zero."
TOKENIZER_TEMPLATE = (
    "The tokenizer's own template is used. It fits a chat model; for a base model, set model.chat_template to a "
    "built-in name or the path of a .jinja file."
)
MESSAGE_KEYS = {
    "role": ("role", "from"),
    "content": ("content", "value", "text", "parts"),
}  # keys of a message that orpo-cli reads
ROLES = {  # roles that orpo-cli reads: a test compares them with those of the data package
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "ai"),
    "tool": ("tool", "observation", "tool_response", "tool_result", "function", "function_response", "ipython"),
}


def source_paths(section: str, count: int) -> list[str]:
    """Paths of ``count`` sources of ``dataset.train`` or ``dataset.eval``: a single source is a mapping, several are a list."""
    return [section] if count == 1 else [f"{section}.{index}" for index in range(count)]


def keep_columns(draft: Draft, columns: Mapping[str, str]) -> None:
    """Convert keys that name columns; ``columns`` maps them to the recipe's columns. They apply to all sources."""
    paths = [path[:-1] for path in draft.values if path[0] == "dataset" and path[-1] == "path"]
    for key, column in columns.items():
        name = draft.peek(key)
        if not paths or name in (None, column):
            draft.merge_into(key, "dataset.train", "the column is read under this name")
            continue
        draft.settle(key, "kept", (*paths[0], "columns", column))
        for path in paths:
            draft.values[(*path, "columns", column)] = name


def split_names(value: Any) -> Any:
    """List of the names in a comma-separated text; other values unchanged."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def keep_template(draft: Draft, inline: str | None = None) -> None:
    """Convert ``chat_template``: a built-in name, or the template itself, in that key or in the key ``inline``."""
    name = draft.peek("chat_template")
    if inline is not None and draft.has(inline):
        draft.keep(inline, "model.chat_template")
    elif isinstance(name, str) and (name in BUILT_IN or "{%" in name or "{{" in name):
        draft.keep("chat_template", "model.chat_template")
    elif isinstance(name, str) and name.startswith("tokenizer_default"):
        draft.keep("chat_template", "model.chat_template", "tokenizer")
    elif name is not None:
        draft.leave_out("chat_template", f"No built-in template has this name. {TOKENIZER_TEMPLATE}")
    for key in ("chat_template", inline or ""):
        draft.merge_into(key, "model.chat_template")


def keep_attention(draft: Draft, key: str, implementations: Mapping[str, str]) -> None:
    """Convert the attention implementation in ``key``; ``implementations`` maps the tool's names to transformers'."""
    name = str(draft.peek(key))
    if name in implementations:
        draft.keep(key, "model.attn_implementation", implementations[name])
    draft.leave_out(key, "orpo-cli chooses the attention for the machine; model.attn_implementation overrides it.")


def keep_use_reentrant(draft: Draft, key: str) -> None:
    """Convert the key for reentrant gradient checkpointing."""
    value = {"use_reentrant": draft.peek(key)}
    draft.keep(key, "training.gradient_checkpointing_kwargs", value)


def keep_bnb_quantization(
    draft: Draft, bits_key: str, method_key: str, bnb_keys: Mapping[str, str], default_method: str | None
) -> None:
    """Convert quantization given as a number of bits; ``bnb_keys`` maps the tool's 4-bit keys to the recipe's."""
    bits, method = draft.peek(bits_key), draft.peek(method_key, default_method)
    if bits in (4, 8) and method in ("bnb", "bitsandbytes"):
        draft.keep(bits_key, f"quantization.load_in_{bits}bit", True)
        draft.merge_into(method_key, f"quantization.load_in_{bits}bit")
        if bits == 4:
            for key, name in bnb_keys.items():
                draft.keep(key, f"quantization.{name}")
            for name, value in (("bnb_4bit_quant_type", "nf4"), ("bnb_4bit_use_double_quant", True)):
                draft.add(f"quantization.{name}", value, f"the default of {draft.tool}")
    for key in (bits_key, method_key):
        draft.leave_out(key, "Only bitsandbytes with 4 or 8 bits is supported.")
    for key in bnb_keys:
        draft.leave_out(key, f"It has no effect without `{bits_key}: 4` and bitsandbytes.")


def keep_adapter_type(draft: Draft, key: str, lora_keys: Sequence[str]) -> bool:
    """Convert the kind of adapter in ``key`` (default: LoRA). Returns False if it is not LoRA: ``lora_keys`` have no effect."""
    kind = draft.peek(key, "lora")
    if kind == "lora":
        draft.merge_into(key, "lora", "the `lora` section")
        return True
    note = "All weights are trained." if kind == "full" else f"`{kind}` is not supported: all weights are trained."
    draft.settle(key, "kept" if kind == "full" else "left-out", None, note)
    for name in lora_keys:
        draft.ignore(name, f"It has no effect with `{key}: {kind}`.")
    return False


def add_no_evaluation(draft: Draft) -> None:
    """Turn evaluation off if the recipe has held-out pairs: without eval_strategy, transformers never evaluates."""
    if draft.has_value("dataset.eval"):
        draft.add("training.eval_strategy", "no", f"{draft.tool} does not use the held-out pairs without eval_strategy")


def add_prompt_length(draft: Draft, length: Any, note: str) -> None:
    """Set the prompt limit just below ``length``, the longest pair in tokens, and drop longer prompts."""
    if isinstance(length, int):
        draft.add("dataset.truncation_mode", "drop", note)
        draft.add("dataset.max_prompt_length", max(1, length - 1), f"allows the longest prompt; {note}")
