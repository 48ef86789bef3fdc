"""Problem pages: docs/troubleshooting/CODE.md for every problem code, made from its explanation in orpo_cli/recipe/problems.

The generated part is the message: what ``orpo validate`` prints for the broken recipe of the explanation, or, where that names a
machine, what ``orpo train`` prints on this machine with a model of 7B parameters.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from orpo_cli.errors import Problem, RecipeError
from orpo_cli.machine import Machine
from orpo_cli.planning.checks import plan_problems
from orpo_cli.planning.model_facts import ModelFacts
from orpo_cli.planning.requirements import missing_requirements
from orpo_cli.planning.resolve import resolve
from orpo_cli.recipe.explanations import FOLDER, Explanation, problem_codes, read_explanation
from orpo_cli.recipe.placeholders import load_complete_recipe

PAGES = Path(__file__).parents[2] / "docs" / "troubleshooting"
GENERATED = "<!-- Generated from orpo_cli/recipe/problems/{code}.md by tools/generate_docs.py. -->"
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


def pages() -> dict[Path, str]:
    """The page of every code."""
    return {PAGES / f"{code}.md": _page(read_explanation(code)) for code in problem_codes()}


def _page(explanation: Explanation) -> str:
    """The file of the explanation, with a note that the page is generated and with the message of the broken recipe."""
    code = explanation.code
    text = (FOLDER / f"{code}.md").read_text(encoding="utf-8")
    if explanation.broken is not None:
        found = example_problems(explanation.broken, explanation.machine)
        message = "\n".join(problem.text() for problem in found if problem.code == code)
        text = text.replace("## Why\n", f"```text\n{message}\n```\n\n## Why\n", 1)
    return text.replace("\n", f"\n\n{GENERATED.format(code=code)}\n", 1)


def example_problems(example: str, machine: str | None = None) -> list[Problem]:
    """All problems of an example, read as recipe.yaml with the required sections that it leaves out."""
    rest = [
        lines for section, lines in REQUIRED_SECTIONS.items() if not re.search(rf"^{section}:", example, re.MULTILINE)
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("recipe.yaml").write_text(example + "".join(rest), encoding="utf-8")
        try:
            loaded = load_complete_recipe("recipe.yaml")
            if machine is None:
                return list(loaded.warnings)
            plan = resolve(loaded, MACHINES[machine], MISTRAL_7B)
        except RecipeError as error:
            return list(error.problems)
        missing = [loaded.source_map.locate_problem(each) for each in missing_requirements(plan, MACHINES[machine])]
        return [*loaded.warnings, *plan_problems(plan, loaded, MISTRAL_7B), *missing]
