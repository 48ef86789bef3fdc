"""The pages of docs/troubleshooting that explain a problem's code, and the messages on them, which are made, not written.

A page is named as its code. Its first YAML block is a recipe that has the problem, its second one is the same repaired;
model and dataset are added where they do not matter. The text block is what ``orpo validate`` says of the first.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.recipe.load import load_recipe

PAGES = Path(__file__).parent / "troubleshooting"
NO_CODES = {"index", "codes"}
REST = {"model": "model:\n  model_name_or_path: some/model\n", "dataset": "dataset:\n  train:\n    path: pairs.jsonl\n"}
TEXT = re.compile(r"^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)


def code_pages() -> list[Path]:
    """The pages that explain a code."""
    return sorted(path for path in PAGES.glob("*.md") if path.stem not in NO_CODES)


def examples(page: str) -> list[str]:
    """The YAML of a page: what breaks, then what holds. Empty where a page shows none."""
    return re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def problems_of(example: str) -> list[Problem]:
    """What the examples's checks say, as if it stood in recipe.yaml."""
    rest = [lines for section, lines in REST.items() if not re.search(rf"^{section}:", example, re.MULTILINE)]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("recipe.yaml").write_text(example + "".join(rest), encoding="utf-8")
        try:
            return list(load_recipe("recipe.yaml").warnings)
        except RecipeError as error:
            return list(error.problems)


def with_symptom(path: Path) -> str:
    """The page's text, with what its first example makes ``orpo validate`` say."""
    page = path.read_text(encoding="utf-8")
    if not examples(page):
        return page
    said = "\n".join(each.text() for each in problems_of(examples(page)[0]) if each.code == path.stem)
    return TEXT.sub(lambda _: f"```text\n{said}\n```\n", page, count=1)


def summary(page: str) -> str:
    """The first paragraph of a page, in one line."""
    return page.split("\n\n")[1].replace("\n", " ").strip()
