"""Outcome of a fault: what the command did, the state that it left, and whether all of it is as docs/reliability.md says."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    """Record of one case, or of ``cases`` similar ones that a test counts itself.

    ``exit_code`` is minus the number of the signal that ended the command. ``state``: what the fault left. ``finished``: whether
    the same command with `--resume auto` (or the repeated command) succeeded; None where nothing can be finished. ``identical``:
    whether the final weights and losses are those of the undisturbed run. ``problems``: what differs from the documentation.
    """

    campaign: str
    case: str
    command: str = ""
    exit_code: int | None = None
    said: str = ""
    state: str = ""
    finished: bool | None = None
    identical: bool | None = None
    problems: list[str] = field(default_factory=list)
    cases: int = 1
    failures: int = 0

    def expect(self, holds: bool, problem: str) -> None:
        """Note ``problem`` unless the condition holds."""
        if not holds:
            self.problems.append(problem)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def explanation(self) -> str:
        """What to read when a case fails."""
        shown = [
            f"{self.campaign}: {self.case}",
            *self.problems,
            f"command: {self.command}",
            f"exit code: {self.exit_code}",
        ]
        return "\n".join([*shown, f"state: {self.state}", "said:", self.said[-3000:]])


BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEADER = ("campaign", "cases", "ended as documented", "finished afterwards", "bit-identical results")


def table(outcomes: list[dict[str, Any]]) -> str:
    """The table of all campaigns, in Markdown, with a row for each campaign and one for all."""
    campaigns = sorted({each["campaign"] for each in outcomes})
    rows = [_row(name, [each for each in outcomes if each["campaign"] == name]) for name in campaigns]
    rows.append(_row("all", outcomes))
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADER, ("---", *["---:"] * 4), *rows))


def machine(minutes: float) -> str:
    """When, where and with which versions the table was measured."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")
    )
    processor = f"{os.cpu_count()} CPU cores ({models[0] if models else platform.machine()})"
    return (
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} in {minutes:.0f} minutes with {processor}, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def write_table(path: Path, text: str) -> None:
    """Write the table to a file, or into the page of that path."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    begin, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{begin}{BEGIN}\n{text}{END}{after}" if end else text, encoding="utf-8")


def _row(name: str, outcomes: list[dict[str, Any]]) -> tuple[str, ...]:
    cases = sum(each["cases"] for each in outcomes)
    documented = cases - sum(each["failures"] or bool(each["problems"]) for each in outcomes)
    return (name, str(cases), str(documented), _share(outcomes, "finished"), _share(outcomes, "identical"))


def _share(outcomes: list[dict[str, Any]], name: str) -> str:
    known = [each[name] for each in outcomes if each[name] is not None]
    return f"{sum(known)} of {len(known)}" if known else "–"
