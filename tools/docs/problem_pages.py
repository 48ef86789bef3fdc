"""Pages of docs/troubleshooting that explain a problem code; their messages are generated, so that they match the code.

A page is named after its code. Its first YAML block is a recipe with the problem, its second the corrected recipe; missing
model and dataset sections are added. The text block is the message of ``orpo validate`` for the first recipe. If the page
names a machine in a comment, it is the message of ``orpo train`` on that machine for a model with 7B parameters.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.machine import Machine
from orpo_cli.plan.checks import plan_problems
from orpo_cli.plan.model_facts import ModelFacts
from orpo_cli.plan.requirements import missing_requirements
from orpo_cli.plan.resolve import resolve
from orpo_cli.recipe.load import load_recipe

PAGES = Path(__file__).parents[2] / "docs" / "troubleshooting"
NO_CODES = {"index", "codes"}
REQUIRED_SECTIONS = {
    "model": "model:\n  model_name_or_path: some/model\n",
    "dataset": "dataset:\n  train:\n    path: pairs.jsonl\n",
}
CPU = Machine("cpu", "a processor", 1, None, 32 << 30, 8, False, False, 1 << 40, "3.11", "Linux")
H100 = replace(CPU, device="cuda", device_name="NVIDIA H100", device_memory_bytes=80 << 30, bf16=True)
MACHINES = {
    "CPU": CPU,
    "H100": H100,
    "T4": replace(H100, device_name="Tesla T4", device_memory_bytes=16 << 30, bf16=False),
}
MISTRAL_7B = ModelFacts("mistral", 7_241_732_096, True, 32768)
MESSAGE_BLOCK = re.compile(r"^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)


def code_pages() -> list[Path]:
    """Paths of the pages that explain a code."""
    return sorted(path for path in PAGES.glob("*.md") if path.stem not in NO_CODES)


def examples(page: str) -> list[str]:
    """YAML blocks of a page: the invalid recipe, then the corrected one. Empty if the page has none."""
    return re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def machine_of(page: str) -> Machine | None:
    """Machine that the examples of a page are planned for, or None if they need none."""
    named = re.search(r"^<!-- machine: (\w+) -->$", page, re.MULTILINE)
    return MACHINES[named[1]] if named else None


def problems_of(example: str, machine: Machine | None = None) -> list[Problem]:
    """Problems of an example recipe, as if it were the file recipe.yaml."""
    missing = [
        lines for section, lines in REQUIRED_SECTIONS.items() if not re.search(rf"^{section}:", example, re.MULTILINE)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("recipe.yaml").write_text(example + "".join(missing), encoding="utf-8")
        try:
            loaded = load_recipe("recipe.yaml")
            if machine is None:
                return list(loaded.warnings)
            plan = resolve(loaded, machine, MISTRAL_7B)
        except RecipeError as error:
            return list(error.problems)
        requirements = [loaded.source_map.locate_problem(problem) for problem in missing_requirements(plan, machine)]
        return [*loaded.warnings, *plan_problems(plan, loaded, MISTRAL_7B), *requirements]


def with_message(path: Path) -> str:
    """Text of the page, with the message for its first example."""
    page = path.read_text(encoding="utf-8")
    if not examples(page):
        return page
    message = "\n".join(
        each.text() for each in problems_of(examples(page)[0], machine_of(page)) if each.code == path.stem
    )
    return MESSAGE_BLOCK.sub(lambda _: f"```text\n{message}\n```\n", page, count=1)


def summary(page: str) -> str:
    """First paragraph of a page as one line."""
    return page.split("\n\n")[1].replace("\n", " ").strip()
