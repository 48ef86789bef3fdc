"""Explanations of problem codes: why the rule exists, a recipe that breaks it, and the repaired recipe.

Each code has one Markdown file in ``problems/``. ``orpo explain`` prints it, and tools/docs/problem_pages.py makes the page in
docs/troubleshooting from it. The files are read only when an explanation is needed, so they cost no start-up time.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from orpo_cli.errors import DOCS, UsageError

FOLDER = Path(__file__).parent / "problems"
INDENT = "    "  # of a code block in Markdown
_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")  # from docs/troubleshooting to another page of docs/
_FILE = re.compile(
    r"# (?P<code>[\w-]+)\n\n(?P<summary>.+?)\n\n"
    r"(?:<!-- machine: (?P<machine>\w+) -->\n\n)?"
    r"(?:```text\n(?P<message>.+?)\n```\n\n)?"
    r"## Why\n\n(?P<why>.+?)\n(?:\n```yaml\n(?P<broken>.+?)```\n)?"
    r"\n## What to do\n\n(?P<remedy>.+?)\n(?:\n```yaml\n(?P<repaired>.+?)```\n)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Explanation:
    """Explanation of one problem code. ``broken`` and ``repaired`` are recipes without the sections that do not matter."""

    code: str
    summary: str
    why: str
    remedy: str
    broken: str | None
    repaired: str | None
    message: str | None  # printed for the problem, where no recipe alone can show it
    machine: str | None  # the machine that the broken recipe is planned for, where the problem depends on it

    def text(self) -> str:
        """The explanation as Markdown for a terminal; links are written as addresses."""
        parts = [f"# {self.code}", self.summary]
        parts += [f"## Message\n\n{self.message}"] if self.message else []
        parts += ["## Why", self.why]
        parts += [f"## Example\n\n{textwrap.indent(self.broken, INDENT).rstrip()}"] if self.broken else []
        parts += ["## What to do", self.remedy]
        parts += [f"## Repaired example\n\n{textwrap.indent(self.repaired, INDENT).rstrip()}"] if self.repaired else []
        return _LINK.sub(rf"\1 ({DOCS}/\2)", "\n\n".join(parts))


def problem_codes() -> list[str]:
    """All problem codes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def read_explanation(code: str) -> Explanation:
    """The explanation of ``code``. Raises UsageError with the most similar code if there is no such code."""
    codes = problem_codes()
    if code not in codes:
        from orpo_cli.recipe.did_you_mean import did_you_mean  # loads pydantic

        raise UsageError(
            f"{code}: no such problem code, and no key of a recipe.",
            remedy=did_you_mean(
                code, codes, f"`orpo explain` lists all codes. The keys of a recipe: {DOCS}/reference/recipe.md"
            ),
        )
    found = _FILE.fullmatch((FOLDER / f"{code}.md").read_text(encoding="utf-8"))
    assert found is not None, f"{code}.md has another structure"
    groups = found.groupdict()
    return Explanation(**{**groups, "summary": groups["summary"].replace("\n", " ")})
