"""Report of ``gpu.sh``: join the files that its parts wrote into gpu.json and gpu.md.

    python -m benchmarks.gpu_report DIR

It reads what is there, so it also works while the script runs and after it was killed.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PYTEST_LINE = re.compile(r"(PASSED|FAILED|ERROR|SKIPPED)\s.*?(tests/\S+::\S.*?)\s*$", re.MULTILINE)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a line that was cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty if it is not there or not complete."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return document


def read_tests(path: Path) -> dict[str, list[str]]:
    """The tests of pytest's output with -v by outcome, as far as it was written."""
    output = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found: dict[str, list[str]] = {}
    for outcome, name in PYTEST_LINE.findall(output.partition("short test summary")[0]):
        found.setdefault(outcome.lower(), []).append(name)
    return found


def join(folder: Path) -> dict[str, Any]:
    """All results in ``folder``."""
    parts = {each["part"]: each for each in read_lines(folder / "parts.jsonl")}
    return {
        "machine": describe_gpu(),
        "parts": list(parts.values()),
        "tests": read_tests(folder / "tests.txt"),
        "equality": read_lines(folder / "equality.jsonl"),
        "training": read_lines(folder / "training.jsonl"),
        "profile": read_document(folder / "profile.json"),
        "kernels": _table_lines(folder / "kernels.txt"),
    }


def _table_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def describe_gpu() -> str:
    """Name, memory and driver of the GPU, without torch, whose import takes seconds."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no GPU"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A Markdown table; none without rows."""
    head, cells = list(head), [[str(each).replace("|", "\\|") for each in row] for row in rows]
    if not cells:
        return ["Nothing was measured.", ""]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)] + [""]


def markdown(found: dict[str, Any]) -> str:
    """The report for readers."""
    lines = ["# Results of gpu.sh", "", found["machine"], ""]
    lines += table(
        ("part", "status", "seconds", "of at most"),
        ([each["part"], each["status"], each["seconds"], each["limit"]] for each in found["parts"]),
    )
    tests = found["tests"]
    lines += [
        "## Tests",
        "",
        ", ".join(f"{len(names)} {outcome}" for outcome, names in tests.items()) or "None ran.",
        "",
    ]
    lines += [f"- {outcome}: `{name}`" for outcome in ("failed", "error") for name in tests.get(outcome, [])] + [""]
    lines += ["## Strategies with one process, against single", ""]
    differences = ("loss_difference", "grad_norm_difference", "weights_difference")
    lines += table(
        ("case", "strategy", "status", "loss", "gradient norm", "weights", "seconds", "reason"),
        (
            (each["case"], each["strategy"], each["status"], *(_number(each.get(name), "{:.0e}") for name in differences),
             each["seconds"], each.get("reason", ""))
            for each in found["equality"]
        ),
    )  # fmt: skip
    lines += ["## Training", "", "Medians of the steps; memory is the peak above the loaded model.", ""]
    lines += table(
        ("case", "TRL, s", "orpo-cli, s", "ratio", "TRL, GB", "orpo-cli, GB", "loss difference"), training_rows(found)
    )
    lines += ["## Peak memory of orpo-cli against its plan", ""]
    lines += table(
        ("case", "planned, GB", "allocated, GB", "in use on the device, GB", "planned / in use"),
        (
            (
                each["case"],
                _number(each["planned_gb"], "{:.1f}"),
                f"{each['held_gb'] + each['peak_gb']:.1f}",
                _number(each["device_gb"], "{:.1f}"),
                _number(_ratio(each["planned_gb"], each["device_gb"]), "{:.2f}"),
            )
            for each in found["training"]
            if each["side"] == "ours" and "planned_gb" in each
        ),
    )
    lines += ["## Profile of a step of 4 short pairs, 4-bit weights", ""]
    profile = found["profile"]
    for name in ("operators", "kernel_launches", "device_ms") if profile else ():
        lines.append(f"- {name.replace('_', ' ')} a step: {profile[name]:,.0f}")
    for name in ("device_ms_of", "cpu_ms_of", "calls_of") if profile else ():
        lines += ["", f"### {name.replace('_', ' ')}, a step", ""]
        lines += table(("operator or kernel", "value"), list(profile[name].items())[:15])
    lines += ["", "## Kernels", "", *found["kernels"], ""]
    return "\n".join(lines)


def training_rows(found: dict[str, Any]) -> list[list[str]]:
    """Rows of the training table: both sides of a case, as far as they have finished."""
    sides = {(each["case"], each["side"]): each for each in found["training"]}
    rows = []
    for case in dict.fromkeys(case for case, _ in sides):
        ours, trl = sides.get((case, "ours")), sides.get((case, "trl"))
        seconds = [statistics.median(each["step_seconds"]) if each else None for each in (trl, ours)]
        losses = zip(ours["loss"], trl["loss"], strict=False) if ours and trl else ()
        difference = max((abs(a - b) / max(abs(b), 1e-12) for a, b in losses), default=None)
        rows.append([
            case, *(_number(each, "{:.3f}") for each in seconds), _number(_ratio(*seconds), "**{:.2f}**"),
            *(_number(each["peak_gb"], "{:.1f}") if each else "" for each in (trl, ours)), _number(difference, "{:.0e}"),
        ])  # fmt: skip
    return rows


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def main() -> None:
    """Write both files, each at once."""
    folder = Path(sys.argv[1])
    found = join(folder)
    for name, text in (("gpu.json", json.dumps(found, indent=1) + "\n"), ("gpu.md", markdown(found))):
        partial = folder / f"{name}.part"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


if __name__ == "__main__":
    main()
