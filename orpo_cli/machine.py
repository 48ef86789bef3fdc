"""Machine: devices, memory, supported number formats and attention kernels, free disk."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

Device = Literal["cpu", "cuda", "mps"]

ASSUMED_GPU_BYTES = 80_000_000_000

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)  # versions 2 and 1


@dataclass(frozen=True)
class Machine:
    """Devices and their features; memory and disk in bytes."""

    device: Device
    device_name: str
    device_count: int
    device_memory_bytes: int | None  # of one device; None if it uses the main memory
    ram_bytes: int
    cpu_count: int
    bf16: bool  # the device computes bfloat16 natively
    flash_attention: bool  # the flash_attn package is installed and the device can run it
    free_disk_bytes: int
    python: str
    platform: str
    available_bytes: int | None = None  # free memory for training on the device; None if not known


def probe(directory: Path | None = None) -> Machine:
    """Facts of this machine. Imports torch where there may be a GPU. ``directory``: on the disk to measure (default: the current
    directory).
    """
    import psutil  # a dependency of accelerate

    device: Device = "cpu"
    name, count, memory, bf16, flash = platform.processor() or platform.machine(), 1, None, False, False
    if _may_have_gpu():
        import torch

        if torch.cuda.is_available():
            device, count = "cuda", torch.cuda.device_count()
            properties = torch.cuda.get_device_properties(0)
            name, memory = properties.name, properties.total_memory
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            flash = importlib.util.find_spec("flash_attn") is not None and properties.major >= 8
        elif torch.backends.mps.is_available():
            device, name = "mps", "Apple GPU"
    disk = (directory or Path.cwd()).absolute()
    return Machine(
        device=device,
        device_name=name,
        device_count=count,
        device_memory_bytes=memory,
        ram_bytes=int(psutil.virtual_memory().total),
        cpu_count=usable_cpus(),
        bf16=bf16,
        flash_attention=flash,
        free_disk_bytes=shutil.disk_usage(next(each for each in (disk, *disk.parents) if each.exists())).free,
        python=platform.python_version(),
        platform=platform.platform(),
        available_bytes=_available_gpu_bytes(count) if device == "cuda" else available_ram_bytes(),
    )


def _may_have_gpu() -> bool:
    """Whether torch may find a GPU: not on Linux where it was built for CPUs, or no driver of NVIDIA is installed.

    Importing torch to ask it takes two seconds.
    """
    if "torch" in sys.modules or not sys.platform.startswith("linux"):
        return True
    try:
        built_for = _torch_build()
        if built_for["cuda"] is None or built_for["hip"] is not None:
            return built_for["hip"] is not None
        ctypes.CDLL("libcuda.so.1")  # as the runtime of CUDA loads it
    except OSError:
        return False
    except Exception:  # another torch than those we know
        return True
    return True


def _torch_build() -> dict[str, Any]:
    """Variables of torch's ``version.py``, without importing torch: ``cuda`` and ``hip`` are versions or None."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise ImportError("torch is not installed")
    return runpy.run_path(str(Path(torch.origin).with_name("version.py")))


@cache
def has_gpu_libraries() -> bool:
    """Whether torch was built for GPUs: importing it then loads their libraries, also on a machine without a GPU."""
    try:
        built_for = _torch_build()
        return built_for["cuda"] is not None or built_for["hip"] is not None
    except Exception:  # another torch than those we know
        return False


def _available_gpu_bytes(device_count: int) -> int | None:
    """Free memory of the first GPU.

    Measuring it takes about 0.5 GB there for the rest of the process. With several GPUs a child process does it, because the ranks
    that this process starts need all of it.
    """
    if device_count == 1:
        import torch

        return int(torch.cuda.mem_get_info()[0])
    measure = [sys.executable, "-c", "import torch; print(torch.cuda.mem_get_info()[0])"]
    done = subprocess.run(measure, capture_output=True, text=True, timeout=300, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def assume_gpus(machine: Machine, count: int, memory_bytes: int | None = None) -> Machine:
    """``machine`` with ``count`` GPUs, of 80 GB by default: to plan for another machine than this one."""
    memory_bytes = memory_bytes or ASSUMED_GPU_BYTES
    name = f"{memory_bytes / 1e9:g} GB GPU (assumed)"
    return replace(
        machine,
        device="cuda",
        device_name=name,
        device_count=count,
        device_memory_bytes=memory_bytes,
        bf16=True,
        flash_attention=False,
        available_bytes=None,
    )


def available_ram_bytes() -> int:
    """Free memory within the limits of the container or the job."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _cgroup_folders():
        for limit, used in CGROUP_FILES:
            try:
                allowed = int((folder / limit).read_text())
                free = min(free, allowed - int((folder / used).read_text()) + _file_cache_bytes(folder / "memory.stat"))
            except (OSError, ValueError):  # another version of cgroups, or no limit ("max")
                continue
    return max(0, free)


def _cgroup_folders() -> set[Path]:
    """The folders of the cgroup of this process and of those around it, whose limits apply, too."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        groups = []
    folders = {CGROUP_ROOT, CGROUP_ROOT / "memory"}  # in a container, the cgroup of the container
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers in ("", "memory"):
            inner = Path(path.lstrip("/"))
            folders.update(CGROUP_ROOT / controllers / each for each in (inner, *inner.parents))
    return folders


def _file_cache_bytes(statistics: Path) -> int:
    """Memory of cached files, which the kernel frees on demand; cgroups count it as used."""
    try:
        values = dict(line.split() for line in statistics.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    names = ("active_file", "inactive_file")
    return sum(int(values.get(f"total_{name}", values.get(name, 0))) for name in names)


def usable_cpus() -> int:
    """CPUs that this process may use: in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
