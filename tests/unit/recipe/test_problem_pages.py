"""Every kind of problem has a page in docs/troubleshooting, and its examples break and keep the rule that it explains."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from orpo_cli.errors import Problem
from tools.docs import problem_pages

ROOT = Path(__file__).parents[3]

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in problem_pages.code_pages()}
EXAMPLES = {code: problem_pages.examples(page) for code, page in PAGES.items() if problem_pages.examples(page)}
WITHOUT_EXAMPLE = {
    "recipe-empty", "recipe-unreadable", "recipe-not-a-mapping", "yaml-too-deep", "recipe-too-large", "extends-too-deep",
    "untrained-template-tokens", "hub-push-failed",  # found while the run trains
}  # fmt: skip
UNSUPPORTED = {"unsupported-setting", "unsupported-training-argument"}  # beside rules about settings that come later


def problems_of(code: str, example: str) -> list[Problem]:
    found = problem_pages.problems_of(example, problem_pages.machine_of(PAGES[code]))
    return [problem for problem in found if problem.code == code or problem.code not in UNSUPPORTED]


def codes_in_the_code() -> set[str]:
    """First arguments (or ``code=``) of ``Problem(…)``, and what is given to functions that hand a ``code`` on."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "orpo_cli").rglob("*.py")]
    takes_code = {"Problem": 0}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            if "code" in names:
                takes_code[node.name] = names.index("code")
    codes = set()
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        if name not in takes_code:
            continue
        given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        given += call.args[takes_code[name] : takes_code[name] + 1]
        codes |= {code.value for code in given if isinstance(code, ast.Constant) and isinstance(code.value, str)}
    return codes


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert set(PAGES) == codes_in_the_code()


def test_only_whole_file_problems_go_without_an_example() -> None:
    assert set(PAGES) - set(EXAMPLES) == WITHOUT_EXAMPLE


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_first_example_has_this_problem_alone_and_names_its_line(code: str) -> None:
    (problem,) = problems_of(code, EXAMPLES[code][0])
    assert problem.code == code
    assert problem.file == "recipe.yaml"
    assert problem.line is not None
    line = EXAMPLES[code][0].splitlines()[problem.line - 1]
    assert any(name in line for name in problem.path.split(".")[-2:])  # what is not written has its section's line
    assert f"```text\n{problem.text()}\n```" in PAGES[code]


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_last_example_is_the_repaired_twin(code: str) -> None:
    broken, repaired = EXAMPLES[code]
    assert broken != repaired
    assert problems_of(code, repaired) == []


@pytest.mark.parametrize("code", PAGES)
def test_a_page_says_symptom_why_and_what_to_do(code: str) -> None:
    assert PAGES[code].startswith(f"# {code}\n\n")
    assert problem_pages.summary(PAGES[code]).endswith(".")
    assert "\n## Why\n" in PAGES[code]
    assert "\n## What to do\n" in PAGES[code]
