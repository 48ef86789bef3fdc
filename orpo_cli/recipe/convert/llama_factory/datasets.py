"""LLaMA-Factory's datasets: names defined in dataset_info.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, mask_secret_patterns, parse_path
from orpo_cli.recipe.convert.shared_settings import MESSAGE_KEYS, ROLES, source_paths, split_names
from orpo_cli.recipe.did_you_mean import closest_name

# Entries of LLaMA-Factory's own dataset_info.json for preference pairs on the hub.
PREDEFINED_DATASETS: Mapping[str, dict[str, Any]] = {
    "dpo_mix_en": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "en", "formatting": "sharegpt"},
    "dpo_mix_zh": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "zh", "formatting": "sharegpt"},
    "ultrafeedback": {"hf_hub_url": "llamafactory/ultrafeedback_binarized"},
    "coig_p": {"hf_hub_url": "m-a-p/COIG-P", "formatting": "sharegpt"},
    "orca_pairs": {"hf_hub_url": "Intel/orca_dpo_pairs", "columns": {"prompt": "question", "system": "system"}},
    "orca_dpo_de": {"hf_hub_url": "mayflowergmbh/intel_orca_dpo_pairs_de"},
    "nectar_rm": {"hf_hub_url": "AstraMindAI/RLAIF-Nectar"},
}
# LLaMA-Factory's name of a column: the recipe's, by formatting.
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "history": "history"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "conversations"},
}
SHARED_COLUMNS = {"system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected"}


def keep_datasets(draft: Draft, folders: Sequence[FilePath]) -> None:
    """Convert the datasets for training and evaluation, and the number of rows of each."""
    known, file = _dataset_info(draft, folders)
    limit = draft.peek("max_samples")
    train = _keep(draft, "dataset", "dataset.train", known, file, limit)
    held_out = _keep(draft, "eval_dataset", "dataset.eval", known, file, limit)
    draft.leave_out("dataset_dir", "The recipe contains the paths of the files.")
    draft.add("dataset.truncation_mode", "keep_start", "LLaMA-Factory keeps the start of a long prompt")
    if train or held_out:
        draft.merge_into("max_samples", f"{train[0] if train else 'dataset.train.0'}.max_samples")
    size = draft.peek("val_size")
    if isinstance(size, int | float) and size > 0 and not held_out:
        draft.keep("val_size", "dataset.eval.test_size", int(size) if size >= 1 else size)
    elif size == 0:
        draft.settle("val_size", "empty")
    draft.leave_out("val_size", "eval_dataset contains the held-out pairs.")
    weights = draft.peek("interleave_probs")
    if draft.peek("mix_strategy", "concat") == "concat" and weights is None:
        draft.leave_out("mix_strategy", "Sources are concatenated and shuffled, as in LLaMA-Factory.")
    for key in ("mix_strategy", "interleave_probs"):
        draft.leave_out(key, "Balance the sources with max_samples or weight of each source.")


def _dataset_info(draft: Draft, folders: Sequence[FilePath]) -> tuple[dict[str, dict[str, Any]], FilePath | None]:
    """Entries of the first dataset_info.json found, each with the folder of its files, and LLaMA-Factory's own; that file."""
    directory = draft.peek("dataset_dir", "data")
    known = {name: dict(entry) for name, entry in PREDEFINED_DATASETS.items()}
    if not isinstance(directory, str):
        return known, None
    for folder in [*(folder / directory for folder in folders), *folders]:
        file = folder / "dataset_info.json"
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise UsageError(f"{file} cannot be read: {error}.") from None
            if not isinstance(found, dict):
                raise UsageError(f"{file} is not a mapping of dataset names.")
            known |= {name: {**entry, "_folder": folder} for name, entry in found.items() if isinstance(entry, dict)}
            return known, file
    return known, None


def _keep(
    draft: Draft, key: str, section: str, known: Mapping[str, dict[str, Any]], file: FilePath | None, limit: Any
) -> list[str]:
    """Convert the datasets of one key; returns the paths of the sources."""
    if not draft.has(key):
        return []
    names = split_names(draft.peek(key))
    names = names if isinstance(names, list) else [names]
    paths = source_paths(section, len(names))
    for name, path in zip(map(str, names), paths, strict=True):
        entry = known.get(name)
        if not _has_path(entry):
            note = _why_no_path(name, entry, known, file)
            draft.add(f"{path}.path", f"TODO/{mask_secret_patterns(name)}", note, todo=True)
        _source(draft, key, name, path, entry, limit)
    draft.settle(key, "kept", parse_path(f"{paths[0]}.path"))
    return paths


def _has_path(entry: Mapping[str, Any] | None) -> bool:
    return entry is not None and bool(entry.get("hf_hub_url") or entry.get("file_name"))


def _why_no_path(
    name: str, entry: Mapping[str, Any] | None, known: Mapping[str, dict[str, Any]], file: FilePath | None
) -> str:
    """Why the path of the dataset ``name`` is not known."""
    if entry is not None:
        return f"the entry `{name}` of {file} has neither file_name nor hf_hub_url"
    if file is None:
        return f"`{name}` is not one of LLaMA-Factory's own datasets, and there is no dataset_info.json in dataset_dir or beside the configuration"
    close, own = closest_name(name, known), [each for each, found in known.items() if "_folder" in found]
    question = f"; did you mean `{close}`?" if close else ""
    return f"`{name}` is not in {file}, which has: {', '.join(own) or 'no dataset'}{question}"


def _without_dots(file: FilePath) -> FilePath:
    """The path without `..`, where that is the same file: not behind a link."""
    normal = FilePath(os.path.normpath(file))
    return normal if not file.exists() or (normal.exists() and normal.samefile(file)) else file


def _source(draft: Draft, key: str, name: str, path: str, entry: Mapping[str, Any] | None, limit: Any) -> None:
    """Write the source of the dataset ``name`` at ``path``."""
    count = limit if limit is not None else (entry or {}).get("num_samples")
    if entry is not None and entry.get("hf_hub_url"):
        draft.add(f"{path}.path", entry["hf_hub_url"], f"{key}: {name}")
        for name_there, field in (("subset", "name"), ("split", "split")):
            if entry.get(name_there):
                draft.add(f"{path}.{field}", entry[name_there], f"from dataset_info.json: {name_there}")
    elif entry is not None and entry.get("file_name"):
        file = _without_dots(entry.get("_folder", FilePath()) / str(entry["file_name"]))
        draft.add(f"{path}.path", file.as_posix(), f"{key}: {name}")
    columns = _columns(entry or {})
    if columns:
        draft.add(f"{path}.columns", columns, "from dataset_info.json")
    if count is not None:
        draft.add(
            f"{path}.max_samples",
            count,
            "LLaMA-Factory selects the first rows of each dataset; here shuffle_seed selects them",
        )
    if unread := _unread_tags(entry or {}):
        draft.remarks.append(
            f"`{mask_secret_patterns(name)}`: messages are not read with {', '.join(unread)} of dataset_info.json. Rename it in the data."
        )
    if entry is not None and entry.get("ranking") is False:
        draft.remarks.append(f"`{name}` does not contain preference pairs: dataset_info.json has `ranking: false`.")


def _unread_tags(entry: Mapping[str, Any]) -> list[str]:
    """Names of keys and roles in ``tags`` that orpo-cli does not read."""
    tags = entry.get("tags")
    read = {f"{key}_tag": names for key, names in (*MESSAGE_KEYS.items(), *ROLES.items())}
    read |= {"observation_tag": ROLES["tool"], "function_tag": ("function_call", "tool_call")}
    known = tags.items() if isinstance(tags, dict) else ()
    return [f"{tag}: {name}" for tag, name in known if name and name not in read.get(tag, (name,))]


def _columns(entry: Mapping[str, Any]) -> dict[str, str]:
    """Column mapping of a source: the recipe's name to the column, where they differ."""
    fields = {**SHARED_COLUMNS, **COLUMNS.get(str(entry.get("formatting", "alpaca")), {})}
    columns = entry.get("columns")
    if not isinstance(columns, dict):
        return {}
    return {
        fields[name]: column for name, column in columns.items() if name in fields and column and column != fields[name]
    }
