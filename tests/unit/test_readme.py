"""README: its two commands, its figures, and the Chinese README, which has the same content."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def figures(name: str) -> list[str]:
    """The numbers of a README outside code blocks and links."""
    return sorted(re.findall(r"(?<![\w.-])\d+(?:\.\d+)*", LINK.sub("]", BLOCK.sub("", read(name)))))


def test_two_commands_run_the_example_and_the_tests_from_a_checkout() -> None:
    commands = re.search(r"## Two commands\n\n```sh\n(.*?)```", read(ENGLISH), re.DOTALL)
    assert commands
    assert commands[1].splitlines() == ["make quickstart", "make test"]


def test_the_wheel_of_the_readme_is_that_of_this_version() -> None:
    from orpo_cli import __version__

    assert f'pip install "dist/orpo_cli-{__version__}-py3-none-any.whl[quickstart]"' in read(ENGLISH)


def test_a_wheel_is_installed_after_the_tested_torch() -> None:
    """Otherwise pip installs the newest PyTorch with the wheel: on Linux the build with CUDA libraries."""
    tested = re.search(r"^torch==\S+$", read("constraints.txt"), re.MULTILINE)
    assert tested
    for name in (ENGLISH, CHINESE, "docs/install.md", "docs/tutorials/ci.md"):
        lines = [line.partition("pip install ")[2] for line in read(name).splitlines()]
        wheels = [number for number, line in enumerate(lines) if re.search(r"^\S+-py3-none-any\.whl", line)]
        assert wheels, name
        assert all(lines[number - 1].split()[0] == tested[0] for number in wheels), name


def test_both_readmes_have_the_same_code_figures_links_and_sections() -> None:
    assert BLOCK.findall(read(ENGLISH)) == BLOCK.findall(read(CHINESE))
    assert figures(ENGLISH) == figures(CHINESE)
    assert len(figures(ENGLISH)) > 25
    other = {ENGLISH: CHINESE, CHINESE: ENGLISH}
    assert LINK.findall(read(ENGLISH)) == [other.get(link, link) for link in LINK.findall(read(CHINESE))]
    levels = [re.findall(r"^#+ ", BLOCK.sub("", read(name)), re.MULTILINE) for name in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]
    tables = [re.findall(r"^\|.*\|$", read(name), re.MULTILINE) for name in (ENGLISH, CHINESE)]
    assert [row.count("|") for row in tables[0]] == [row.count("|") for row in tables[1]]
    verdicts = [re.findall(r"\| (yes|no|是|否) (?=\|)", read(name)) for name in (ENGLISH, CHINESE)]
    assert [{"是": "yes", "否": "no"}[each] for each in verdicts[1]] == verdicts[0]


def test_figures_of_the_readme_are_those_of_the_pages_they_link() -> None:
    text = read(ENGLISH)
    words = re.search(r"\| words to write .*?\| (.*) \|\n", text)
    table = re.search(r"^\| 3\. \[Own data\].*$", read("docs/comparison.md"), re.MULTILINE)
    assert words
    assert table
    assert words[1].split(" | ") == re.findall(r"/ (\d+)", table[0])
    pairs = {name: len(read(f"recipes/data/answer-first-{name}.jsonl").splitlines()) for name in ("train", "heldout")}
    assert f"on {pairs['train']} pairs" in text
    assert f"on {pairs['heldout']} held-out pairs" in text
