"""Provenance of a run for run.json: versions, commits, fingerprints of model and data."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from typing import Any

from orpo_cli import __version__
from orpo_cli.run_attempts import now

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "tokenizers",
)


def provenance(model: Any, report: dict[str, Any]) -> dict[str, Any]:
    """Fields of run.json; ``model`` is the loaded base, ``report`` the content of data_report.json."""
    return {
        "started_at": now(),
        "orpo_cli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: installed_version(name) for name in LIBRARIES},
        "git_commit": _git_commit(),
        "model": {
            "revision": getattr(model.config, "_commit_hash", None),
            "architecture": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "dataset": report,
    }


def installed_versions() -> dict[str, str | None]:
    """The versions that an attempt of a run trains with."""
    own = {"orpo_cli": __version__, "python": platform.python_version()}
    return {**own, **{name: installed_version(name) for name in LIBRARIES}}


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the current directory, with -dirty where files have changed."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
