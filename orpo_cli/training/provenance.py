"""Provenance of a run for run.json: versions, commits, fingerprints of model and data."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from contextlib import suppress
from pathlib import Path
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
        "machine": machine_record(),
        "versions": {name: installed_version(name) for name in LIBRARIES},
        "git_commit": _git_commit(),
        "model": {
            "revision": getattr(model.config, "_commit_hash", None),
            "architecture": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "dataset": report,
    }


def machine_record() -> dict[str, Any]:
    """Devices, processor and memory of this machine."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    processor = _processor_name()
    device = "Apple GPU" if torch.backends.mps.is_available() else processor
    return {
        "devices": [gpu.name for gpu in gpus] or [device],
        "device_memory_gb": round(gpus[0].total_memory / 1e9, 1) if gpus else None,
        "driver": _nvidia_driver() if gpus else None,
        "processor": processor,
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _processor_name() -> str:
    """The model of the processor; on Linux ``platform.processor`` does not know it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _nvidia_driver() -> str | None:
    """The version of NVIDIA's driver on Linux."""
    with suppress(OSError):
        found = re.search(
            r"Module\S*(?:\s+for\s+\S+)?\s+([0-9.]+)", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        )
        return found[1] if found else None
    return None


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
