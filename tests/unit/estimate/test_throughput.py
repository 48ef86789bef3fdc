"""Speed of the processor, by which `orpo plan` estimates the time."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from orpo_cli.estimate import throughput
from orpo_cli.machine import usable_cpus

MEASURE = "from orpo_cli.estimate.throughput import measure_matmul_flops; print(measure_matmul_flops())"


def measure() -> float:
    """The speed that a process with all cores measures."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_other_programs_hardly_change_the_measured_speed() -> None:
    alone = measure()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * usable_cpus())]
    try:
        beside = measure()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert beside > 0.4 * alone  # virtual cores that share a core have half of its speed


def test_settings_of_numpy_do_not_change_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kernels in (None, "Prescott"):  # of a processor without AVX
        if kernels is not None:
            monkeypatch.setenv("OPENBLAS_CORETYPE", kernels)
        found.append(measure())
    assert found[1] > 0.6 * found[0]


def test_the_speed_counts_the_threads_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "run_child", lambda *_, **__: SimpleNamespace(returncode=0, stdout="2e9\n"))
    monkeypatch.setattr(throughput, "usable_cpus", lambda: 4)
    found = []
    for threads in ("1", "3", "64"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(throughput.measure_matmul_flops())
    assert found == [2e9, 6e9, 8e9]


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A40", 150),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("Tesla T4", 65),
        ("NVIDIA L40S", 362),
        ("NVIDIA GB200", 2250),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A400", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_the_speed_of_a_gpu_is_of_its_own_name(name: str, tflops: int | None) -> None:
    plan, machine = SimpleNamespace(device="cuda"), SimpleNamespace(device_name=name)
    speed, how = throughput._speed(plan, machine)  # type: ignore[arg-type]
    assert speed == (None if tflops is None else throughput.GPU_UTILIZATION * tflops * 1e12)
    assert name in how
