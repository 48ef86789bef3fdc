"""The pages of docs/troubleshooting that explain a problem's code, and the messages on them, which are made, not written.

A page is named as its code. Its first YAML block is a recipe that has the problem, its second one is the same repaired;
model and dataset are added where they do not matter. The text block is what ``orpo validate`` says of the first; where the
page names a machine in a comment, what ``orpo train`` says on that, with a model of 7B parameters.
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
TEXT = re.compile(r"^```text\n.*?^```\n", re.MULTILINE | re.DOTALL)


def code_pages() -> list[Path]:
    """The pages that explain a code."""
    return sorted(path for path in PAGES.glob("*.md") if path.stem not in NO_CODES)


def examples(page: str) -> list[str]:
    """The YAML of a page: what breaks, then what holds. Empty where a page shows none."""
    return re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def machine_of(page: str) -> Machine | None:
    """The machine that the examples of a page are planned for; None where they need none."""
    named = re.search(r"^<!-- machine: (\w+) -->$", page, re.MULTILINE)
    return MACHINES[named[1]] if named else None


def problems_of(example: str, machine: Machine | None = None) -> list[Problem]:
    """What is said of an example, as if it stood in recipe.yaml."""
    rest = [
        lines for section, lines in REQUIRED_SECTIONS.items() if not re.search(rf"^{section}:", example, re.MULTILINE)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("recipe.yaml").write_text(example + "".join(rest), encoding="utf-8")
        try:
            loaded = load_recipe("recipe.yaml")
            if machine is None:
                return list(loaded.warnings)
            plan = resolve(loaded, machine, MISTRAL_7B)
        except RecipeError as error:
            return list(error.problems)
        lacking = [loaded.source_map.locate_problem(problem) for problem in missing_requirements(plan, machine)]
        return [*loaded.warnings, *plan_problems(plan, loaded, MISTRAL_7B), *lacking]


def with_symptom(path: Path) -> str:
    """The page's text, with what its first example makes ``orpo validate`` say."""
    page = path.read_text(encoding="utf-8")
    if not examples(page):
        return page
    said = "\n".join(each.text() for each in problems_of(examples(page)[0], machine_of(page)) if each.code == path.stem)
    return TEXT.sub(lambda _: f"```text\n{said}\n```\n", page, count=1)


def summary(page: str) -> str:
    """The first paragraph of a page, in one line."""
    return page.split("\n\n")[1].replace("\n", " ").strip()
