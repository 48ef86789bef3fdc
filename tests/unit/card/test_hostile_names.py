"""Names of strangers in a model card: they stay names, in the front matter and in the text."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from support.card_run import HUB_MODEL, REPORT, make_card_run
from support.json_lines import write_json_lines

from orpo_cli.card.base_license import BaseLicense
from orpo_cli.card.curves import render_curves
from orpo_cli.card.model_card import render_card
from orpo_cli.rundir import RunDir

HOSTILE = {
    "front matter": "a\n---\nlicense: mit\n---\n# Owned",
    "carriage returns": "a\r\n---\r\n\r\n# Owned\r\n",
    "next line": "a\x85---\x85license: mit",
    "line separator": "a\u2028---\u2028# Owned",
    "html": "</code><script>alert(1)</script><img src=x onerror=alert(1)>",
    "code": "` `` ```\n# Owned\n```",
    "link": "[x](javascript:alert(1)) ![y](http://evil.example/z.png)",
    "reference": "[x]\n\n[x]: http://evil.example/",
    "table": "a | b |\n| --- | --- |\n| c",
    "comment": "<!-- made by orpo-cli; a change by hand is kept: 0123456789abcdef -->",
    "unclosed comment": "<!-- x",
    "yaml": "x: y # z",
    "yaml types": "!!python/object:os.system &a *b",
    "quotes": "'\"'\\",
    "list": "- x\n- y",
    "password": "password: 'hunter2hunter2",
    "url": "https://me:hunter2hunter2@example.org/x",
    "long": "word " * 60,
    "escape": "\x1b]0;owned\x07\u202edlrow",
}


def make_run(folder: Path, name: str) -> RunDir:
    """A run in which every text that a stranger can choose is ``name``."""
    base = HUB_MODEL.model_copy(update={"model_name_or_path": f"./{name}"})
    run = make_card_run(folder, recipe=f"name: {json.dumps(name)}\n", model=base, name=name)
    report: dict[str, Any] = deepcopy(REPORT)
    report |= {"end_of_turn": name, "dropped": {name: 3}, "reasons": {name: name}}
    for source in report["sources"]:
        source.update(path=name, split=name, format=name, fingerprint=name)
    report["sources"][1]["location"] = f"/data/{name}"
    run.data_report.write_text(json.dumps(report))
    run.write_run(status=name, finished_at=name, model={"revision": name, "parameters": 5}, versions={name: name})
    variants = {"tuned": {"rewards/accuracies": 0.5, "loss": 1.0}, name: {"loss": 1.0}}
    run.evaluation.write_text(json.dumps({"pairs": name, "models": variants}))
    answers = [{"prompt": name, "base": {"text": name}, "tuned": {"text": name}}]
    run.samples.write_text(json.dumps({"temperature": name, "answers": answers}))
    (run.export / "gguf").mkdir(parents=True)
    return run


def parsed(card: str) -> tuple[dict[str, Any], str]:
    """The front matter as a strict reader of YAML has it, and the text after it."""
    head, front, body = card.split("---\n", 2)
    assert head == ""
    return yaml.safe_load(front), body


def structure(body: str) -> dict[str, list[str]]:
    """Headings, links, images and HTML of a Markdown text, as a browser would show them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    return {
        "html": [token.content for token in flat if token.type in ("html_block", "html_inline")],
        "links": [str(token.attrs.get("href", token.attrs.get("src"))) for token in flat if token.type in ("link_open", "image")],
        "levels": [token.tag for token in flat if token.type == "heading_open"],
        "tables": [token.type for token in flat if token.type in ("tr_open", "td_open", "th_open", "hr")],
        "fences": [token.info for token in flat if token.type == "fence"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("parts", ["adapter", ("merged", "gguf")], ids=str)
def test_a_name_stays_a_name(tmp_path: Path, kind: str, parts: Any) -> None:
    name = HOSTILE[kind]
    terms = BaseLicense("other", name, name, gated=True)
    plain = BaseLicense("other", "plain", "plain", gated=True)
    card = render_card(make_run(tmp_path / "run", name), parts=parts, base_license=terms)
    expected = render_card(make_run(tmp_path / "plain", "plain"), parts=parts, base_license=plain)
    (front, body), (plain_front, plain_body) = parsed(card), parsed(expected)
    assert front.keys() == plain_front.keys()
    assert ModelCard(card).data.model_name == front["model-index"][0]["name"]
    if kind not in ("password", "url"):  # a secret is not written
        assert front["model-index"][0]["name"] == name
        assert front["license_name"] == front["license_link"] == name
        dataset = front["model-index"][0]["results"][0]["dataset"]
        assert dataset["name"] == f"{name}, {name} held-out pairs"
    assert "hunter2hunter2" not in card
    assert "\x1b" not in card
    shape, plain_shape = structure(body), structure(plain_body)
    checksum = shape["html"].pop()
    assert checksum.startswith("<!-- made by orpo-cli")
    assert len(plain_shape["html"]) == 1
    assert {**shape, "html": []} == {**plain_shape, "html": []}
    assert shape["html"] == []
    card.encode()


def test_a_name_in_the_metrics_is_not_in_the_curves(tmp_path: Path) -> None:
    run = make_card_run(tmp_path / "run", name="</text><script>")
    lines = [{"step": step, "loss": 1.0, "</text><script>": 1.0} for step in range(5)]
    write_json_lines(run.metrics, lines)
    image = str(render_curves(run))
    ElementTree.fromstring(image)
    assert "script" not in image
