"""axolotl's datasets: ``datasets``, ``test_datasets`` and ``val_set_size``."""

from __future__ import annotations

from orpo_cli.recipe.convert.draft import Draft, parse_path
from orpo_cli.recipe.convert.shared_settings import source_paths

SOURCE_KEYS = ("path", "name", "revision", "split")


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
    for index, (path, entry) in enumerate(zip(source_paths(section, len(entries)), entries, strict=True)):
        inner = Draft(draft.tool, dict(entry))
        _source(inner, path)
        draft.values.update(inner.values)
        draft.additions.update(inner.additions)
        for name, outcome in inner.outcomes.items():
            key_path = f"{key}[{index}].{name}"
            draft.record(key_path, outcome.value, outcome.outcome, outcome.path, outcome.note, outcome.offer)


def _source(entry: Draft, path: str) -> None:
    """Convert one dataset to the source at ``path``."""
    files = entry.peek("data_files")
    if entry.peek("path") in ("json", "csv", "parquet", "arrow", "text") and files:
        entry.keep("data_files", f"{path}.path", files[0] if isinstance(files, list) and len(files) == 1 else files)
        entry.merge_into("path", f"{path}.path", "the file extension determines the file type")
    for key in SOURCE_KEYS:
        entry.keep(key, f"{path}.{key}")
    entry.add(f"{path}.split", "train", "axolotl uses the train split")
    kind = entry.peek("type")
    if kind == "chat_template.argilla":
        entry.merge_into("type", f"{path}.format", "chosen and rejected conversations, which `format: auto` detects")
    elif isinstance(kind, dict):
        entry.leave_out("type", "The chat template renders prompts; map columns with `columns:`.")
    else:
        entry.leave_out("type", "The format is detected from the rows; `format:` overrides it.")
    for column in ("chosen", "rejected"):
        entry.keep(f"field_{column}", f"{path}.columns.{column}")
    entry.leave_out("field_messages", "The conversation is read from chosen and rejected; map columns with `columns:`.")
    entry.leave_out("data_files", "Add a source for each file, with the file as its path.")
    entry.leave_out("ds_type", "The file extension determines the file type.")
    for key in ("chat_template", "chat_template_jinja"):
        entry.leave_out(key, "All datasets use one chat template: model.chat_template.")
    for key in ("shards", "shards_idx", "preprocess_shards", "trust_remote_code", "conversation", "input_format"):
        entry.leave_out(key, "It has no equivalent here.")
    for key in list(entry.source):
        entry.settle(key, "unknown", None, "axolotl's preference datasets do not have this key.")
