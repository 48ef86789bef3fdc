"""Figures on pages: those that are stated twice are the same, and those of shipped recipes are the ones in the recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orpo_cli.recipe.load import load_recipe

ROOT = Path(__file__).parents[3]
READMES = sorted(path.name for path in ROOT.glob("README*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", READMES)
def test_speeds_and_memories_of_the_readme_are_measured_ratios(name: str) -> None:
    measured = {float(value) for value in re.findall(r"\*\*([\d.]+)\*\*", text_of("docs/performance.md"))}
    stated = re.findall(r"(\d+\.\d+)(?= ?×| 倍| 到 )", text_of(name))  # × or, in Chinese, 倍
    for value in stated:
        decimals = len(value.partition(".")[2])
        assert any(abs(ratio - float(value)) <= 0.501 * 10**-decimals for ratio in measured), f"{name}: {value} ×"
    assert stated


@pytest.mark.parametrize("name", READMES)
def test_counts_of_disturbed_trainings_are_those_of_the_last_campaign(name: str) -> None:
    page = text_of("docs/reliability.md")
    identical = re.search(r"^\| all \|.* (\d+) of \1 \|$", page, re.MULTILINE)
    killed = re.findall(r"^\| SIGKILL,.* (\d+) of \1 \|$", page, re.MULTILINE)
    assert identical
    assert set(re.findall(r"(\d+) trainings", text_of(name))) <= {identical[1]}
    assert set(re.findall(r"(\d+) of them by SIGKILL", text_of(name))) <= {str(sum(map(int, killed)))}


def test_the_values_of_the_quickstart_on_the_concepts_page_are_those_of_its_recipe() -> None:
    recipe = load_recipe("quickstart").recipe
    found = re.search(
        r"learning rate of (\S+) is high on purpose.*?Its beta is ([\d.]+)", text_of("docs/concepts.md"), re.DOTALL
    )
    assert found
    assert (float(found[1]), float(found[2])) == (recipe.training.learning_rate, recipe.training.beta)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rows_of_a_table_have_the_same_number_of_cells(path: Path) -> None:
    cells = None
    for line in without_code(path.read_text(encoding="utf-8")).splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert cells is None or count in (None, cells), line
        cells = count
