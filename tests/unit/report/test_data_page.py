"""Page of prepared data: in a browser, and with thousands of pairs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

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
        truncation=truncation(lengths, 64),
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


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.mark.skipif(browser() is None, reason="needs chromium")
def test_a_browser_builds_the_pairs_with_their_difference(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(data_page(content(200)))
    command = [
        str(browser()), "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'page.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shown = done.stdout
    assert shown.count('<article class="card">') >= 25
    assert "200 shown" in shown
    card = shown[shown.index('<article class="card">') : shown.index("</article>")]
    assert re.findall(r'class="t chosen d"[^>]*>([^<]*)<', card)[0].strip() == "is"
    assert [word.strip() for word in re.findall(r'class="t rejected d"[^>]*>([^<]*)<', card)][:2] == ["was", "quite"]
    assert "truncated" in card
    assert "rejected, 7 tokens of 90" in card
    assert "<img" not in shown
    assert "Refused to" not in done.stderr
