"""LLaMA-Factory's datasets: names that dataset_info.json explains, as sources of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from orpo_cli.errors import UsageError
from orpo_cli.recipe.convert.draft import Draft, mask_secret_patterns, parse_path

# Pairs on the hub that LLaMA-Factory's own dataset_info.json names: (path, subset, our columns).
PREDEFINED_DATASETS: Mapping[str, dict[str, Any]] = {
    "dpo_mix_en": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "en", "formatting": "sharegpt"},
    "dpo_mix_zh": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "zh", "formatting": "sharegpt"},
    "ultrafeedback": {"hf_hub_url": "llamafactory/ultrafeedback_binarized"},
    "coig_p": {"hf_hub_url": "m-a-p/COIG-P", "formatting": "sharegpt"},
    "orca_pairs": {"hf_hub_url": "Intel/orca_dpo_pairs", "columns": {"prompt": "question", "system": "system"}},
    "orca_dpo_de": {"hf_hub_url": "mayflowergmbh/intel_orca_dpo_pairs_de"},
    "nectar_rm": {"hf_hub_url": "AstraMindAI/RLAIF-Nectar"},
}
# Their name of a column: ours, by formatting.
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "history": "history"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "conversations"},
}
SHARED_COLUMNS = {"system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected"}


def keep_datasets(draft: Draft, folders: Sequence[FilePath]) -> None:
    """Sources for training and evaluation, and how many rows of each."""
    known = _dataset_info(draft, folders)
    limit = draft.peek("max_samples")
    trained = _keep(draft, "dataset", "dataset.train", known, limit)
    evaluated = _keep(draft, "eval_dataset", "dataset.eval", known, limit)
    draft.leave_out("dataset_dir", "The sources are written out.")
    draft.add("dataset.truncation_mode", "keep_start", "LLaMA-Factory keeps the start of a prompt that is too long")
    if trained or evaluated:
        draft.join("max_samples", "dataset.train.max_samples" if trained == 1 else "dataset.train.0.max_samples")
    size = draft.peek("val_size")
    if isinstance(size, int | float) and size > 0 and not evaluated:
        draft.keep("val_size", "dataset.eval.test_size", int(size) if size >= 1 else size)
    elif size == 0:
        draft.settle("val_size", "empty")
    draft.leave_out("val_size", "eval_dataset names the held-out pairs.")
    weights = draft.peek("interleave_probs")
    if draft.peek("mix_strategy", "concat") == "concat" and weights is None:
        draft.leave_out("mix_strategy", "Sources are put one behind another and shuffled, as there.")
    for key in ("mix_strategy", "interleave_probs"):
        draft.leave_out(key, "Balance sources by max_samples, or weight, of each.")


def _dataset_info(draft: Draft, folders: Sequence[FilePath]) -> dict[str, dict[str, Any]]:
    """The entries of the nearest dataset_info.json, each with the folder that its files lie in, before LLaMA-Factory's own."""
    written = draft.peek("dataset_dir", "data")
    known = {name: dict(entry) for name, entry in PREDEFINED_DATASETS.items()}
    if not isinstance(written, str):
        return known
    for folder in [*(folder / written for folder in folders), *folders]:
        file = folder / "dataset_info.json"
        if file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise UsageError(f"{file} cannot be read: {error}.") from None
            if not isinstance(found, dict):
                raise UsageError(f"{file} does not name datasets: it holds no mapping.")
            known |= {name: {**entry, "_folder": folder} for name, entry in found.items() if isinstance(entry, dict)}
            break
    return known


def _keep(draft: Draft, key: str, path: str, known: Mapping[str, dict[str, Any]], limit: Any) -> int:
    """Sources of one key; returns how many."""
    named = draft.peek(key)
    names = [part.strip() for part in named.split(",")] if isinstance(named, str) else named
    if named is None or named in ([], ""):
        return 0
    names = names if isinstance(names, list) else [names]
    places = [path if len(names) == 1 else f"{path}.{index}" for index in range(len(names))]
    for name, place in zip(map(str, names), places, strict=True):
        _source(draft, key, name, place, known.get(name), limit)
    draft.settle(key, "kept", parse_path(f"{places[0]}.path"))
    return len(names)


def _source(draft: Draft, key: str, name: str, place: str, entry: Mapping[str, Any] | None, limit: Any) -> None:
    """Write one source."""
    count = limit if limit is not None else (entry or {}).get("num_samples")
    if entry is None or not (entry.get("hf_hub_url") or entry.get("file_name")):
        note = f"what {key} `{name}` stands for: its entry in dataset_info.json is not found, or not on the hub"
        draft.add(f"{place}.path", f"TODO/{mask_secret_patterns(name)}", note, todo=True)
    elif entry.get("hf_hub_url"):
        draft.add(f"{place}.path", entry["hf_hub_url"], f"{key}: {name}")
        for theirs, ours in (("subset", "name"), ("split", "split")):
            if entry.get(theirs):
                draft.add(f"{place}.{ours}", entry[theirs], f"from dataset_info.json: {theirs}")
    else:
        file = entry.get("_folder", FilePath()) / str(entry["file_name"])
        draft.add(f"{place}.path", file.as_posix(), f"{key}: {name}")
    columns = _columns(entry or {})
    if columns:
        draft.add(f"{place}.columns", columns, "from dataset_info.json")
    if count is not None:
        draft.add(f"{place}.max_samples", count, "of each dataset, the first there, drawn by shuffle_seed here")
    if entry is not None and entry.get("ranking") is False:
        draft.remarks.append(f"dataset_info.json does not call `{name}` pairs: it has `ranking: false`.")


def _columns(entry: Mapping[str, Any]) -> dict[str, str]:
    """Our name: theirs, where they differ."""
    ours = {**SHARED_COLUMNS, **COLUMNS.get(str(entry.get("formatting", "alpaca")), {})}
    written = entry.get("columns")
    if not isinstance(written, dict):
        return {}
    return {ours[name]: column for name, column in written.items() if name in ours and column != ours[name] and column}
