"""axolotl's datasets: ``datasets``, ``test_datasets`` and ``val_set_size``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared_settings import BUILT_IN, MESSAGE_KEYS, ROLES, source_paths
from orpo_cli.recipe.convert.training_args import ignore_all, leave_out_all

SOURCE_KEYS = ("path", "name", "revision", "split")
LOADERS = ("json", "csv", "parquet", "arrow", "text")
COLUMNS = {  # axolotl's key, of a dataset or of its `type`: the recipe's column
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_prompt": "prompt",
    "field_system": "system",
    "field_tools": "tools",
}
THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
IGNORED_KEYS: Mapping[str, str] = {
    "axolotl uses it only for supervised fine-tuning.": "field field_human field_model field_instruction field_input "
    "field_output input_format input_transform conversation system_prompt system_format format no_input_format roles_to_train "
    "train_on_eos train_on_eot message_field_training message_field_training_detail text_column skip",
    "axolotl uses it only for other methods than ORPO.": "logprobs_field temperature step_separator max_completion_length "
    "train_on_last_step_only field_completion field_label completion_format",
}
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "The chat template renders prompts and completions.": "prompt_format chosen_format rejected_format split_thinking",
    "Add a source for each file, with the file as its path.": "data_files",
    "The file extension determines the file type.": "ds_type",
    "All datasets use one chat template: model.chat_template.": "chat_template chat_template_jinja",
    "Remove the system messages from the data.": "drop_system_message",
    "It has no equivalent here.": "shards shards_idx preprocess_shards trust_remote_code",
}


def keep_datasets(draft: Draft) -> None:
    """Convert the datasets for training and the held-out pairs."""
    _sources(draft, "datasets", "dataset.train")
    _sources(draft, "test_datasets", "dataset.eval")
    size = draft.peek("val_set_size")
    if draft.has_value("dataset.eval"):
        draft.leave_out("val_set_size", "test_datasets contains the held-out pairs.")
    elif isinstance(size, int | float) and size > 1:
        draft.keep("val_set_size", "dataset.eval.test_size", int(size))
    elif size == 0:
        draft.settle("val_set_size", "empty")
    else:
        draft.keep("val_set_size", "dataset.eval.test_size")


def _sources(draft: Draft, key: str, section: str) -> None:
    """Convert a list of datasets."""
    entries = draft.peek(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        draft.leave_out(key, "It is not a list of datasets, each with a path.")
        return
    draft.settle(key, "kept", parse_path(section))
    files = [(index, entry) for index, whole in enumerate(entries) for entry in _entry_per_file(whole)]
    templates = {str(entry["chat_template"]) for entry in entries if entry.get("chat_template")}
    shared = templates if len(templates) == 1 and not draft.has_value("model.chat_template") else set()
    for path, (index, entry) in zip(source_paths(section, len(files)), files, strict=True):
        inner = Draft(draft.tool, dict(entry))
        if shared <= BUILT_IN and shared:
            inner.keep("chat_template", "model.chat_template")
        _source(inner, path)
        draft.values.update(inner.values)
        draft.additions.update(inner.additions)
        for name, outcome in inner.outcomes.items():
            key_path = f"{key}[{index}].{name}"
            draft.record(key_path, outcome.value, outcome.outcome, outcome.path, outcome.note, outcome.offer)


def _entry_per_file(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """One dataset for each of its files, where a loader of ``datasets`` reads them."""
    files = entry.get("data_files")
    if entry.get("path") in LOADERS and isinstance(files, list) and len(files) > 1:
        return [{**entry, "data_files": file} for file in files]
    return [entry]


def _source(entry: Draft, path: str) -> None:
    """Convert one dataset to the source at ``path``."""
    files = entry.peek("data_files")
    if entry.peek("path") in LOADERS and files:
        entry.keep("data_files", f"{path}.path", files[0] if isinstance(files, list) and len(files) == 1 else files)
        entry.merge_into("path", f"{path}.path", "the file extension determines the file type")
    for key in SOURCE_KEYS:
        entry.keep(key, f"{path}.{key}")
    entry.add(f"{path}.split", "train", "axolotl uses the train split")
    kind = entry.peek("type")
    if isinstance(kind, dict):
        _user_defined_type(entry, kind, path)
    for key, column in COLUMNS.items():
        _column(entry, key, entry.peek(key), path, column)
    if kind == "chat_template.argilla":
        entry.merge_into("type", f"{path}.format", "chosen and rejected conversations, which `format: auto` detects")
        entry.ignore("field_messages", "With this type axolotl reads the conversation from chosen and rejected.")
    _column(entry, "field_messages", entry.peek("field_messages"), path, "prompt", default="messages")
    entry.leave_out("type", "The format is detected from the rows; `format:` overrides it.")
    _message_fields(entry)
    _roles(entry)
    if entry.peek("field_thinking") in THINKING_KEYS:
        entry.settle("field_thinking", "kept", None, "Reasoning is read under this name.")
    entry.leave_out("field_thinking", f"Reasoning is read from {' or '.join(THINKING_KEYS)}: rename it in the data.")
    entry.leave_out("template_thinking_key", "The chat template gets the reasoning as reasoning_content.")
    ignore_all(entry, IGNORED_KEYS)
    leave_out_all(entry, UNSUPPORTED_KEYS)
    for key in list(entry.source):
        entry.settle(key, "unknown", None, "axolotl's preference datasets do not have this key.")


def _column(entry: Draft, key: str, name: Any, path: str, column: str, default: str = "") -> None:
    """Convert ``key``, the name of a column. A name that is read without a mapping needs none."""
    if key not in entry.source:
        return
    if name in (column, default):
        entry.settle(key, "kept", None, "The column is read under this name.")
    else:
        entry.keep(key, f"{path}.columns.{column}")


def _user_defined_type(entry: Draft, kind: Mapping[str, Any], path: str) -> None:
    """Convert a ``type`` with keys: columns, and formats of the texts."""
    entry.settle("type", "kept", None, "See its keys.")
    for name, value in kind.items():
        key, column = f"type.{name}", COLUMNS.get(name)
        if column is not None and value == column:
            entry.record(key, value, "kept", None, "The column is read under this name.")
        elif column is not None and value:
            entry.put(key, value, f"{path}.columns.{column}")
        elif not value or value in (f"{{{name.removesuffix('_format')}}}", f"{{{name}}}"):
            entry.record(key, value, "empty")
        elif name.endswith("_format"):
            entry.record(key, value, "left-out", None, "The chat template renders prompts and completions.")
        else:
            entry.record(key, value, "unknown")


def _message_fields(entry: Draft) -> None:
    """Keys of a message. orpo-cli finds role and content by their usual names, and reads further properties by name."""
    fields = {"message_field_role": "role", "message_field_content": "content"}
    for key, name in fields.items():
        _message_field(entry, key, entry.source.pop(key, None), name)
    mappings = entry.peek("message_property_mappings")
    if not isinstance(mappings, dict):
        entry.leave_out("message_property_mappings", "It is not a mapping.")
        return
    entry.settle("message_property_mappings", "kept", None, "See its keys.")
    for name, value in mappings.items():
        _message_field(entry, f"message_property_mappings.{name}", value, name)


def _message_field(entry: Draft, key: str, value: Any, name: str) -> None:
    if value is None:
        return
    if value in MESSAGE_KEYS.get(name, (name,)):
        entry.record(key, value, "kept", None, "Messages are read with this key.")
        return
    known = " or ".join(MESSAGE_KEYS.get(name, (name,)))
    entry.record(key, value, "left-out", None, f"Messages are read with the key {known}: rename it in the data.")


def _roles(entry: Draft) -> None:
    """Names of roles. orpo-cli reads the usual ones."""
    roles = entry.peek("roles")
    if not isinstance(roles, dict):
        entry.leave_out("roles", "It is not a mapping.")
        return
    entry.settle("roles", "kept", None, "See its keys.")
    for role, names in roles.items():
        unknown = (
            [str(name) for name in names if name not in ROLES.get(role, ())] if isinstance(names, list) else [names]
        )
        if unknown:
            note = f"The role {role} is not read from {', '.join(map(str, unknown))}: rename it in the data."
            entry.record(f"roles.{role}", names, "left-out", None, note)
        else:
            entry.record(f"roles.{role}", names, "kept", None, "These names of roles are read.")
