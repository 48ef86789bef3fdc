"""Paired benchmark runs: two implementations of the same work in alternating processes, with medians and ratios."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

KILLED = -9  # exit status of a process that the kernel kills when memory is used up


def run_alternating(
    sides: Mapping[str, Sequence[str]],
    rounds: int,
    may_be_killed: str | None = None,
    variables: Mapping[str, Mapping[str, str]] = {},
) -> dict[str, list[dict[str, Any]]]:
    """Run each side's ``python`` arguments ``rounds`` times, alternating; each prints a JSON object as its last line.

    A side that ``may_be_killed`` for its memory has no results then, and is not repeated. ``variables``: additional environment
    variables of each side.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    killed: set[str] = set()
    for _ in range(rounds):
        for name, arguments in sides.items():
            if name in killed:
                continue
            environment = {**os.environ, **variables.get(name, {})}
            done = subprocess.run(
                [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False, env=environment
            )
            if done.returncode == KILLED and name == may_be_killed:
                killed.add(name)
                results[name] = []
                continue
            if done.returncode != 0:
                raise SystemExit(f"{name} failed with {done.returncode}: {' '.join(arguments)}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def median(results: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median(float(result[figure]) for result in results)


def peak_memory_gb() -> float:
    """Peak resident memory of this process in GB, as the operating system counts it."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9


def describe_machine() -> str:
    """Processor, cores, GPU and versions in one line."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{processor_name()}, {os.cpu_count()} cores, {device}, Python {platform.python_version()}, torch {torch.__version__}"


def processor_name() -> str:
    """The processor's name where the operating system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
