"""Code blocks of the README, the how-to guides and the tutorials: checked here or by another test, or with a reason why not."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from support.prepared_rows import prepare_dataset

from orpo_cli.data.first_rows import find_columns
from orpo_cli.data.formats.detect import detect_format

ROOT = Path(__file__).parents[3]
GUIDES = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
PAGES = [*sorted(ROOT.glob("README*.md")), ROOT / "docs" / "install.md", ROOT / "docs" / "quickstart.md", *GUIDES]

# Lines of shell blocks that start other programs. Lines with `orpo` are checked in tests/unit/tools/test_docs.py.
OTHER_PROGRAMS = {
    "make docker git cd source pip export set cp": "installs or prepares; tests/unit/test_project.py checks the targets of make",
    "tensorboard wandb trackio ollama hf torchrun accelerate alpaca_eval": "another program",
    "python": "downloads the data of nltk",
    "python3 .venv/bin/python": "create an environment, and install PyTorch in it",
}
# Blocks of other languages, and what checks them.
CHECKED_ELSEWHERE = {
    "yaml": "tests/unit/tools/test_docs.py: every recipe is valid",
    "text": "output, or a file of another program",
    "console": "needs several machines or processes: tests/runs/test_launched_ranks.py",
    "jinja": "a part of a template",
}


NO_PAIRS = {"docs/how-to/editors.md": "settings of an editor", "docs/how-to/generate-answers.md": "a line of answers"}


class Block(NamedTuple):
    """A code block of a page."""

    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for path in PAGES:
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            if not languages or language in languages:
                found.append(Block(str(path.relative_to(ROOT)), language, text))
    return found


def test_every_line_of_a_shell_block_is_a_known_command() -> None:
    known = {"orpo", *(name for names in OTHER_PROGRAMS for name in names.split())}
    unknown = [
        f"{block.page}: {line}"
        for block in blocks("sh")
        if not block.text.startswith("#!")
        for line in block.text.splitlines()
        if line and not line.startswith("#") and re.sub(r"^\w+=\$\(", "", line).split()[0] not in known
    ]
    assert unknown == []
    assert {block.language for block in blocks()} <= {"sh", "bash", "json", "python", *CHECKED_ELSEWHERE}


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.page)
def test_a_block_of_json_is_a_row_of_pairs(block: Block) -> None:
    row = json.loads(block.text)
    assert block.page in NO_PAIRS or detect_format([row]) is not None


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.page)
def test_a_script_is_valid(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_rated_answers_of_the_guide_form_pairs(tmp_path: Path) -> None:
    page = [block for block in blocks("text", "yaml") if block.page.endswith("train-on-your-data.md")]
    (csv,) = [block.text for block in page if block.text.startswith("question,answer,stars")]
    (recipe,) = [yaml.safe_load(block.text) for block in page if "helpfulness" in block.text]
    source = recipe["dataset"]["train"]
    file = tmp_path / source["path"]
    file.write_text(csv, encoding="utf-8")
    found = find_columns(file)
    assert found is not None
    assert found.mapping == source["columns"]
    train = prepare_dataset({"train": {**source, "path": str(file)}}).train
    texts = list(zip(train["chosen_text"], train["rejected_text"], strict=True))
    assert sorted(texts) == [
        ("Air scatters blue light the most.", "What a question!"),
        ("Water that falls from clouds.", "It is wet."),
    ]


def test_the_script_of_the_chat_style_tutorial_makes_pairs(tmp_path: Path) -> None:
    (script,) = [block.text for block in blocks("python") if block.page.endswith("chat-style.md")]
    rows = [
        {"prompt": f"Question {n}?", "messages": [], "model": {"text": f"Long {n}.", "tokens": 3, "finished": True}}
        for n in (1, 2)
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "better.txt").write_text("Short 1.\nShort 2.\n", encoding="utf-8")
    subprocess.run(["python3", "-c", script], cwd=tmp_path, check=True)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert pairs[1] == {"prompt": "Question 2?", "chosen": "Short 2.", "rejected": "Long 2."}
    assert detect_format(pairs) is not None
