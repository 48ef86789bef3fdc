"""Dataset card: the configurations and splits that a downloaded dataset repository names, resolved as ``datasets`` resolves them.

Without the card, the files of all configurations would be read as one dataset.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orpo_cli.data.sources.files import KNOWN, is_data_file
from orpo_cli.errors import DataError
from orpo_cli.recipe.did_you_mean import did_you_mean

FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
NAMES_CONFIGS = re.compile(r"^configs:", re.MULTILINE)
STANDALONE_YAML = ".huggingface.yaml"  # overrides the keys of the card
# Settings of a configuration that need no reader: what they say is read from the files, or is no part of the rows.
APPLIED_SETTINGS = ("data_files", "data_dir", "default", "description", "version", "features", "sep", "delimiter")


class CardConfig(NamedTuple):
    """Configuration of a dataset card: its name and the data files of each split."""

    name: str
    splits: Mapping[str, list[Path]]


def card_config(folder: Path, name: str | None, note: Callable[[str], None]) -> CardConfig | None:
    """The configuration ``name`` of the folder's card, or its default; None where there is no card or it names none.

    Raises DataError where the recipe must choose one or names an unknown one, and where the card or its files cannot be read.
    """
    configs = _read_configs(folder)
    if not configs:
        return None
    chosen = name if name is not None else _default_name(folder, configs)
    if chosen not in configs:
        raise DataError(
            f"{folder}: its card has no configuration {chosen!r}; it has {', '.join(configs)}.",
            remedy=did_you_mean(chosen, configs, "Set name to one of these."),
        )
    config = configs[chosen]
    if unused := [key for key in config if key not in APPLIED_SETTINGS]:
        note(f"{folder}: the settings {', '.join(unused)} of the configuration {chosen} are not applied")
    return CardConfig(chosen, _resolve_files(folder, chosen, config))


def _default_name(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> str:
    defaults = [name for name in configs if len(configs) == 1 or name == "default" or configs[name].get("default")]
    if len(defaults) == 1:
        return defaults[0]
    reason = f"several are the default ({', '.join(defaults)})" if defaults else "none is the default"
    raise DataError(
        f"{folder}: its card has the configurations {', '.join(configs)}, and {reason}.",
        remedy=f"Set name to one of them, for example name: {next(iter(configs))}; for several, give a list of sources.",
    )


def _read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings of the configurations by name; empty where the folder has no card that names some."""
    documents = [
        _read_yaml(folder / "README.md", front_matter=True),
        _read_yaml(folder / STANDALONE_YAML, front_matter=False),
    ]
    path, entries = next(
        ((path, document["configs"]) for path, document in reversed(documents) if document.get("configs")),
        (folder, []),
    )
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("config_name"), str | int) for entry in entries
    ):
        raise DataError(f"{path}: configs is not a list of entries with a config_name.", remedy=_REMEDY)
    return {
        str(entry["config_name"]): {str(key): value for key, value in entry.items() if key != "config_name"}
        for entry in entries
    }


_REMEDY = "Fix the file, remove it, or set path to the data files."


def _read_yaml(path: Path, *, front_matter: bool) -> tuple[Path, dict[str, Any]]:
    """Mapping in a YAML file or in the front matter of a Markdown file; empty where there is none."""
    if not path.is_file():
        return path, {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.", remedy=_REMEDY) from error
    if front_matter:
        found = FRONT_MATTER.match(text)
        text = found[1] if found else ""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not NAMES_CONFIGS.search(text):  # a text between two rulers is not metadata
            return path, {}
        raise DataError(
            f"{path}: its metadata is not YAML: {' '.join(str(error).split())[:300]}.", remedy=_REMEDY
        ) from error
    return path, document if isinstance(document, dict) else {}


def _resolve_files(folder: Path, name: str, config: Mapping[str, Any]) -> dict[str, list[Path]]:
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    where = f"{folder}: configuration {name}"
    base = str(Path(glob.escape(str(folder)), config.get("data_dir") or ""))  # `datasets` takes it as a pattern
    try:
        given = config.get("data_files")
        patterns = get_data_patterns(base) if given is None else sanitize_patterns(given)
        if remote := [pattern for each in patterns.values() for pattern in each if "://" in str(pattern)]:
            raise DataError(f"{where}: the file {remote[0]} is not in the folder.", remedy="Give its URL as path.")
        found = DataFilesDict.from_patterns(patterns, base_path=base)
        if not any(found.values()):
            raise FileNotFoundError
    except (EmptyDatasetError, FileNotFoundError) as error:
        raise DataError(
            f"{where}: no file matches its data_files.",
            remedy="Download the files of this configuration too, or set name to another one.",
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: its data_files cannot be read: {' '.join(str(error).split())[:300]}.", remedy=_REMEDY
        ) from error
    splits = {
        str(split): [Path(file) for file in dict.fromkeys(names) if is_data_file(file)]
        for split, names in found.items()
    }
    splits = {split: paths for split, paths in splits.items() if paths}
    if not splits:
        raise DataError(f"{where}: it has no data file of a supported kind.", remedy=KNOWN)
    return splits
