"""Page of prepared data: in a browser, and with thousands of pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.browser import Browser, browser, needs_browser

from orpo_cli.data.audit import Audit, length_bias, truncation
from orpo_cli.data.dropped_rows import DroppedRow
from orpo_cli.data.report import DataReport, length_stats
from orpo_cli.data.token_spans import TokenSpan
from orpo_cli.report.data_page import PageContent, data_page

HOSTILE = "</script><img src=x onerror=alert(1)> &amp; <b>"


def spans(text: str, purpose: str) -> list[TokenSpan]:
    words = re.findall(r"\s*\S+", text)
    return [TokenSpan((sum(map(ord, word)) % 50_000,), word, purpose) for word in words]  # type: ignore[arg-type]


def content(pairs: int) -> PageContent:
    lengths = np.array([100] * pairs)
    stats = length_stats(lengths, (5, 95))
    audit = Audit(
        pairs=pairs,
        lengths=dict.fromkeys(("prompt", "chosen", "rejected", "sequence"), stats),
        histogram={"edges": [0, 50, 100], "counts": [1, pairs]},
        cut={64: 1.0, 256: 0.0},
        truncation=truncation(lengths, 64, [lengths > 64, lengths > 64]),
        length_bias=length_bias(lengths, lengths),
        same_prompt=0,
        tokens=300 * pairs,
        tokens_of_two_passes=400 * pairs,
    )
    report = DataReport(64, 32, "keep_end", "<|im_end|>", train_pairs=pairs)
    rows = [
        {
            "part": "train",
            "pair": number,
            "row": f"train.jsonl:{number + 1}",
            "full": [4, 6, 90 if number % 3 == 0 else 7],
            "prompt": spans("What is the sky?", "prompt"),
            "chosen": spans(f"The sky is blue today {HOSTILE}", "chosen"),
            "rejected": spans(f"The sky was quite blue today {number}", "rejected"),
        }
        for number in range(pairs)
    ]
    dropped = [
        DroppedRow("train", "train.jsonl:9000", "identical", "", ("Why?", "Same.", "Same.")),
        DroppedRow("train", "train.jsonl:9001", "malformed", "no chosen", ('{"a": "<b>"}',)),
    ]
    steps = {"pairs_per_step": 8, "steps_per_epoch": 1, "steps": 3, "epochs": 3.0}
    return PageContent(f"test {HOSTILE}", report, {"train": audit}, steps, rows, dropped)


def test_a_page_of_thousands_of_pairs_has_each_token_once() -> None:
    page = data_page(content(3000))
    assert len(page) < 3_000_000
    assert page.count("alert(1)") == 3, "in the title, in the heading, and once as a token"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as chrome:
        yield chrome


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_the_pairs_with_their_difference(
    width: int, dark: bool, chrome: Browser, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(data_page(content(200)))
    page = chrome.open(tmp_path / "page.html", width=width, dark=dark)
    assert page.evaluate("document.querySelectorAll('.card').length") >= 25
    assert page.evaluate("document.getElementById('count').textContent") == "200 shown"
    marked = (
        "[...document.querySelectorAll('.card')[0].querySelectorAll('.%s .d')].map(each => each.textContent.trim())"
    )
    assert page.evaluate(marked % "chosen")[0] == "is"
    assert page.evaluate(marked % "rejected")[:2] == ["was", "quite"]
    shown = page.evaluate("document.querySelectorAll('.card')[0].innerText")
    assert HOSTILE in shown
    assert "rejected, 7 tokens of 90" in shown
    assert page.evaluate("document.querySelectorAll('img, b b').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it does not scroll sideways"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 300) is dark
    assert page.problems == []
    assert page.requests == []


@needs_browser
def test_a_browser_filters_searches_and_names_tokens(chrome: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(data_page(content(200)))
    page = chrome.open(tmp_path / "page.html")
    cards = "document.querySelectorAll('.card').length"
    choose = "document.querySelector('#kind [data-value=%s]').click()"
    page.evaluate(choose % "dropped")
    assert page.evaluate(cards) == 2
    assert "identical: the two completions are identical" in page.evaluate("document.getElementById('pairs').innerText")
    page.evaluate(choose % "truncated")
    assert page.evaluate("document.getElementById('count').textContent") == "67 shown"
    page.evaluate(
        "search = document.getElementById('search'); search.value = 'TODAY 123'; search.dispatchEvent(new Event('input'))"
    )
    page.wait_for("document.getElementById('count').textContent === '1 shown'")
    assert "train.jsonl:124" in page.evaluate("document.getElementById('pairs').innerText")
    place = page.evaluate(
        "(({x, y}) => [x, y])(document.querySelector('.chosen [data-token]').getBoundingClientRect())"
    )
    page.move_mouse(place[0] + 3, place[1] + 5)
    page.wait_for("!document.getElementById('tip').hidden")
    assert re.fullmatch(r"id \d+ · NLL and odds ratio", page.evaluate("document.getElementById('tip').textContent"))
    page.evaluate("search.value = ''; search.dispatchEvent(new Event('input')); " + choose % "pair")
    page.wait_for("document.getElementById('count').textContent === '200 shown'")
    page.wait_for(f"(window.scrollTo(0, document.body.scrollHeight), {cards} === 200)")
    assert page.problems == []
