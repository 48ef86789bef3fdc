"""Wording of pages, docstrings, comments, messages and recipe headers: no phrase that readers did not understand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHRASES = (
    "made again",
    "make it again",
    "anew",
    "whole road",
    "the road",
    "stands in",
    "stand in",
    "is had",
    "be had",
    "goes up",
    "go up",
    "fates?",
    "patience",
    "voices?",
    "misfits?",
    "beginnings",
    "shrunk to nothing",
    "likelier",
    "beside tuned",
)
EXCEPTIONS = {  # the ordinary sense of the word
    ("CONTRIBUTING.md", "voice"),  # active voice
    ("orpo_cli/recipe/rules/schedule.py", "patience"),  # an argument of ReduceLROnPlateau
    ("tests/unit/recipe/rules/test_training_rules.py", "patience"),
}
SUFFIXES = (".md", ".py", ".yaml", ".yml", ".toml")
NOT_CHECKED = {"CHANGELOG.md", "tests/unit/test_wording.py"}


def tracked_text_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in listing.stdout.splitlines() if name.endswith(SUFFIXES) or name == "Makefile"]
    return [name for name in names if name not in NOT_CHECKED and (ROOT / name).is_file()]


def test_no_text_contains_a_phrase_that_readers_did_not_understand() -> None:
    pattern = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
    found: list[str] = []
    excepted: set[tuple[str, str]] = set()
    for name in tracked_text_files():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            for phrase in pattern.findall(line):
                if (name, phrase.lower()) in EXCEPTIONS:
                    excepted.add((name, phrase.lower()))
                else:
                    found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []
    assert excepted == EXCEPTIONS
