"""Every problem code has an explanation; its examples break and keep the rule that it explains, and its page is generated."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from orpo_cli.errors import Problem
from orpo_cli.recipe.explanations import problem_codes, read_explanation
from orpo_cli.recipe.schema.watchdogs import WatchdogSettings
from tools.docs import problem_pages

ROOT = Path(__file__).parents[3]

EXPLANATIONS = {code: read_explanation(code) for code in problem_codes()}
WITH_EXAMPLE = [code for code, explanation in EXPLANATIONS.items() if explanation.broken is not None]
WITHOUT_EXAMPLE = {
    "recipe-empty", "recipe-unreadable", "recipe-not-a-mapping", "yaml-too-deep", "recipe-too-large", "extends-too-deep",
    "data-refused", "few-held-out-pairs", "few-steps", "prompts-held-out", "held-out-of-recipe", "rows-dropped", "doubtful-rows", "pairs-truncated", "length-predicts-preference",  # of the data
    "untrained-template-tokens", "hub-push-failed", "tracker-failed",  # found while the run trains
    *(name.replace("_", "-") for name in WatchdogSettings.model_fields),
}  # fmt: skip
UNSUPPORTED = {
    "unsupported-training-argument",
}  # reported with rules about settings of later versions


def problems(code: str, example: str) -> list[Problem]:
    found = problem_pages.example_problems(example, EXPLANATIONS[code].machine)
    return [problem for problem in found if problem.code == code or problem.code not in UNSUPPORTED]


def raised_codes() -> set[str]:
    """First arguments (or ``code=``) of ``Problem(…)`` and of functions that pass a ``code`` on."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "orpo_cli").rglob("*.py")]
    code_position = {"Problem": 0, "Rule": 0}  # a watchdog
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef) and node.name != "read_explanation":
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            if "code" in names:
                code_position[node.name] = names.index("code")
    codes = set()
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", None) or getattr(call.func, "attr", None)
        if name not in code_position:
            continue
        given = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        given += call.args[code_position[name] : code_position[name] + 1]
        codes |= {code.value for code in given if isinstance(code, ast.Constant) and isinstance(code.value, str)}
    return codes


def test_every_code_that_is_raised_has_an_explanation_and_no_other() -> None:
    assert set(EXPLANATIONS) == raised_codes()


def test_docs_have_one_page_per_code_and_no_other() -> None:
    pages = {path.stem for path in problem_pages.PAGES.glob("*.md")}
    assert pages - {"index", "codes"} == set(EXPLANATIONS)


def test_only_problems_of_a_file_or_a_running_run_have_no_example() -> None:
    assert set(EXPLANATIONS) - set(WITH_EXAMPLE) == WITHOUT_EXAMPLE


@pytest.mark.parametrize("code", WITH_EXAMPLE)
def test_the_broken_example_has_this_problem_alone_and_its_line_is_reported(code: str) -> None:
    broken = str(EXPLANATIONS[code].broken)
    (problem,) = problems(code, broken)
    assert problem.code == code
    assert problem.file == "recipe.yaml"
    assert problem.line is not None
    line = broken.splitlines()[problem.line - 1]
    assert any(name in line for name in problem.path.split(".")[-2:])  # a missing key has the line of its section
    page = (problem_pages.PAGES / f"{code}.md").read_text(encoding="utf-8")
    assert f"```text\n{problem.text()}\n```" in page


@pytest.mark.parametrize("code", WITH_EXAMPLE)
def test_the_repaired_example_keeps_the_rule(code: str) -> None:
    explanation = EXPLANATIONS[code]
    assert explanation.repaired not in (None, explanation.broken)
    assert problems(code, str(explanation.repaired)) == []


@pytest.mark.parametrize("code", EXPLANATIONS)
def test_an_explanation_has_its_code_and_a_one_sentence_summary(code: str) -> None:
    explanation = EXPLANATIONS[code]
    assert explanation.code == code
    assert explanation.summary.endswith(".")
    assert explanation.why.endswith((".", ")"))
