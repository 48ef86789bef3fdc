"""axolotl's datasets as sources of a recipe."""

from __future__ import annotations

from orpo_cli.recipe.convert.draft import Draft, parse_path

SOURCE_KEYS = {"path": "path", "name": "name", "revision": "revision", "split": "split"}


def keep_datasets(draft: Draft) -> None:
    """Sources to train on and to hold out."""
    _sources(draft, "datasets", "dataset.train")
    _sources(draft, "test_datasets", "dataset.eval")
    size = draft.peek("val_set_size")
    if parse_path("dataset.eval.path") in draft.values or parse_path("dataset.eval.0.path") in draft.values:
        draft.leave_out("val_set_size", "test_datasets are the held-out pairs.")
    elif isinstance(size, int | float) and size > 1:
        draft.keep("val_set_size", "dataset.eval.test_size", int(size))
    elif size == 0:
        draft.settle("val_set_size", "empty")
    else:
        draft.keep("val_set_size", "dataset.eval.test_size")


def _sources(draft: Draft, key: str, path: str) -> None:
    """A list of datasets; one stands as a mapping, several as a list."""
    listed = draft.peek(key)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        draft.leave_out(key, "It is no list of datasets, each with a path.")
        return
    draft.settle(key, "kept", parse_path(path))
    for index, entry in enumerate(listed):
        place = path if len(listed) == 1 else f"{path}.{index}"
        inner = Draft(draft.tool, dict(entry))
        _source(inner, place)
        draft.values.update(inner.values)
        draft.additions.update(inner.additions)
        for name, outcome in inner.outcomes.items():
            full = f"{key}[{index}].{name}"
            draft.record(full, outcome.value, outcome.outcome, outcome.path, outcome.note, outcome.offer)


def _source(entry: Draft, place: str) -> None:
    files = entry.peek("data_files")
    if entry.peek("path") in ("json", "csv", "parquet", "arrow", "text") and files:
        entry.keep("data_files", f"{place}.path", files[0] if isinstance(files, list) and len(files) == 1 else files)
        entry.join("path", f"{place}.path", "the kind of file is seen from its name")
    for key, ours in SOURCE_KEYS.items():
        entry.keep(key, f"{place}.{ours}")
    entry.add(f"{place}.split", "train", "axolotl takes the train split")
    kind = entry.peek("type")
    if kind == "chat_template.argilla":
        entry.join("type", f"{place}.format", "chosen and rejected conversations, which `format: auto` recognises.")
    elif isinstance(kind, dict):
        entry.leave_out("type", "Prompts are rendered by the chat template; map columns with `columns:`.")
    else:
        entry.leave_out("type", "The format is recognised from the rows; `format:` names one.")
    for ours in ("chosen", "rejected"):
        entry.keep(f"field_{ours}", f"{place}.columns.{ours}")
    entry.leave_out("field_messages", "The conversation is read from chosen and rejected; map columns with `columns:`.")
    entry.leave_out("data_files", "Give the files as paths of a source each.")
    entry.leave_out("ds_type", "The kind of file is seen from its name.")
    for key in ("chat_template", "chat_template_jinja"):
        entry.leave_out(key, "One chat template serves all data: model.chat_template.")
    for key in ("shards", "shards_idx", "preprocess_shards", "trust_remote_code", "conversation", "input_format"):
        entry.leave_out(key, "It has no equal here.")
    for key in list(entry.source):
        entry.settle(key, "unknown", None, "axolotl's preference datasets have no such key.")
