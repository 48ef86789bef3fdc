"""`orpo data`: summary, pairs, HTML page and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.tiny import write_recipe

Orpo = Callable[..., Any]


def test_the_summary_has_counts_lengths_and_steps(tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("data", write_recipe(tmp_path))
    assert done.returncode == 0, done.stderr
    for words in (
        "24 rows read, 24 kept",
        "tokens, truncated",
        "max_length",
        "this recipe",
        "correlation",
        "steps per epoch",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert not (tmp_path / "run").exists()


def test_json_has_report_audit_steps_and_pairs(tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("data", write_recipe(tmp_path), "--json", "--show", "2")
    document = json.loads(done.stdout)
    assert document["status"] == "ok"
    assert document["report"]["train_pairs"] == document["audit"]["train"]["pairs"] == 24
    assert document["steps"]["pairs_per_step"] > 0
    assert [pair["pair"] for pair in document["pairs"]] == [0, 1]
    assert document["pairs"][0]["chosen"][-1]["purpose"] == "end"


def test_a_pair_is_found_by_number_and_by_row_name(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    by_number, by_name = (orpo_here("data", recipe, "--row", row) for row in ("3", "train.jsonl:4"))
    assert by_number.stdout == by_name.stdout
    assert "pair 3, train.jsonl:4" in by_name.stdout
    assert "⟦<|im_end|>⟧" in by_name.stdout
    missing = orpo_here("data", recipe, "--row", "train.jsonl:99")
    assert missing.returncode == 2
    assert "train.jsonl:1" in missing.stderr


class PageParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_page_has_the_same_content_and_loads_nothing(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    first["chosen"][0]["content"] = "<script>alert(1)</script> & <b>bold</b> [red]not[/red]"
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(first), *rows[1:]]))
    done = orpo_here("data", recipe, "--show", "2", "--html", tmp_path / "pairs.html")
    assert done.returncode == 0, done.stderr
    page = PageParser()
    html = (tmp_path / "pairs.html").read_text()
    page.feed(html)
    assert page.links == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "<script>alert(1)</script> & <b>bold</b> [red]not[/red]" in page.text
    assert "24 rows read, 24 kept" in page.text
    assert len(set(re.findall(r"color: (#[0-9a-f]{6})", html))) >= 4


def test_a_page_path_that_cannot_be_written_exits_2(tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("data", write_recipe(tmp_path), "--html", tmp_path / "no" / "x.html")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr


def test_data_that_fails_in_training_fails_in_data_too(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    lines = [json.dumps({"prompt": f"q{n}", "chosen": f" a{n}", "rejected": " b"}) for n in range(1300)]
    lines[1233] = '{"prompt": "q", "chosen": '
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    done = orpo_here("data", recipe)
    assert done.returncode == 4
    assert "train.jsonl:1234" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("file", "format_"), [("hh_harmless_base_test.jsonl.gz", "hh"), ("sharegpt_pairs_en.json", "sharegpt")]
)
def test_real_files(tmp_path: Path, orpo_here: Orpo, real_data: Path, file: str, format_: str) -> None:
    recipe = write_recipe(tmp_path)
    done = orpo_here("data", recipe, "--set", f"dataset.train.path={real_data / file}", "--json")
    document = json.loads(done.stdout)
    assert document["report"]["sources"][0]["format"] == format_
    if format_ == "hh":
        assert document["report"]["dropped"]["histories_differ"] == 5
        assert document["report"]["dropped"]["empty_chosen"] == 4


def test_the_html_page_escapes_name_and_text(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe, name = write_recipe(tmp_path), "</title><script>alert(1)</script>{code}"
    rows = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(rows.replace("It is 0.", "<b>{title}</b>"))
    html = tmp_path / "pairs.html"
    done = orpo_here("data", recipe, "--set", f"name={json.dumps(name)}", "--show", "1", "--html", html)
    assert done.returncode == 0, done.stderr
    page = PageParser()
    page.feed(html.read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert f"{name}: training data" in page.text
    assert "<b>{title}</b>" in page.text
