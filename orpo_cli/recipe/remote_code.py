"""Warning about model code: ``trust_remote_code`` runs Python files of a repository or folder with the permissions of the user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from orpo_cli.errors import Problem
from orpo_cli.recipe.schema import ModelSection

PATH = "model.trust_remote_code"
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
MAX_FILES_NAMED = 8
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RELATIVE_IMPORT = re.compile(r"^\s*(?:from\s+\.(\w+)\s+import|import\s+\.(\w+))", re.MULTILINE)


def remote_code_problem(model: ModelSection, folder: Path | None) -> Problem | None:
    """The warning for ``model``; None if it runs no code of its own. ``folder``: its local folder, None for a hub id."""
    name = model.model_name_or_path
    if not model.trust_remote_code or name.endswith(".gguf"):
        return None
    if folder is not None:
        files = code_files(folder)
        if not files:
            message = f"allows to run Python code from the folder {folder}; its configuration names none."
            return _warning(message, "Remove it.")
        named = ", ".join(files[:MAX_FILES_NAMED]) + (
            f" and {len(files) - MAX_FILES_NAMED} more" * (len(files) > MAX_FILES_NAMED)
        )
        return _warning(f"runs Python code from the folder {folder}: {named}.", "Read these files first, or remove it.")
    revision = model.model_revision
    remedy = "Read the code at this commit first, or remove it."
    if not _COMMIT.fullmatch(revision):
        remedy = (
            f"Read the code, and set model.model_revision to its commit, because {revision} may change; or remove it."
        )
    return _warning(f"runs Python code from the repository {name} at revision {revision}.", remedy)


def code_files(folder: Path) -> list[str]:
    """The Python files that the configuration of a model folder names, and those that they import from the folder.

    A file of another repository is named with the repository.
    """
    found: dict[str, None] = {}
    pending = [reference for name in CONFIGS for reference in _auto_map(folder / name)]
    while pending:
        reference = pending.pop(0)
        repository, _, module = reference.rpartition("--")
        file = f"{module.partition('.')[0]}.py"
        name = f"{file} of the repository {repository}" if repository else file
        if name in found:
            continue
        found[name] = None
        if not repository:
            pending += _imported_modules(folder / file)
    return list(found)


def _auto_map(path: Path) -> list[str]:
    """References such as ``modeling_x.XModel``, or ``owner/name--modeling_x.XModel`` for another repository."""
    import json  # most recipes need none

    try:
        document: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    references = document.get("auto_map") if isinstance(document, dict) else None
    values = references.values() if isinstance(references, dict) else [references]
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [each for each in flat if isinstance(each, str) and each]


def _imported_modules(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [first or second for first, second in _RELATIVE_IMPORT.findall(text)]


def _warning(message: str, remedy: str) -> Problem:
    return Problem("trust-remote-code", message, PATH, remedy=remedy, severity="warning")
