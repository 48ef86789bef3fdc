"""`orpo data`: summary, pairs, HTML page and exit codes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.tiny import pairs, write_recipe

from orpo_cli.data import pair_cache

Orpo = Callable[..., Any]


def test_the_summary_has_counts_lengths_and_steps(tmp_path: Path, orpo_here: Orpo) -> None:
    done = orpo_here("data", write_recipe(tmp_path))
    assert done.returncode == 0, done.stderr
    for words in (
        "24 rows read, 24 kept",
        "tokens, as trained",
        "max_length",
        "this recipe",
        "correlation",
        "steps per epoch",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_last_lines_repeat_what_was_dropped(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    rows = [*pairs(10), pairs(1)[0], {**pairs(1)[0], "chosen": ""}]
    write_json_lines(tmp_path / "x.jsonl", rows)
    done = orpo_here("data", recipe, "--set", "dataset.train.path=x.jsonl", "--set", "dataset.eval=null")
    assert done.returncode == 0, done.stderr
    dropped, steps = done.stdout.splitlines()[-2:]
    assert dropped == "12 rows read, 10 pairs kept; dropped: 1 empty_chosen, 1 duplicate; truncated pairs: none"
    assert "steps in total" in steps
    counts = [line.split()[-1] for line in done.stdout.splitlines() if line.strip()[:1].isdigit() and " to " in line]
    assert sum(map(int, counts)) == 10


def test_few_held_out_pairs_are_noted(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    write_json_lines(tmp_path / "x.jsonl", pairs(50))
    for held_out, noted in ((3, True), (20, False)):
        settings = ("dataset.train.path=x.jsonl", f"dataset.eval={{test_size: {held_out}}}")
        done = orpo_here("data", recipe, *(word for each in settings for word in ("--set", each)))
        assert done.returncode == 0, done.stderr
        assert (f"only {held_out} eval pairs" in " ".join(done.stdout.split())) == noted


def test_a_handful_of_pairs_has_no_histogram(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    write_json_lines(tmp_path / "x.jsonl", pairs(50))
    for held_out, histograms in ((5, 1), (10, 2)):
        settings = ("dataset.train.path=x.jsonl", f"dataset.eval={{test_size: {held_out}}}")
        done = orpo_here("data", recipe, *(word for each in settings for word in ("--set", each)))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("tokens, before truncation") == histograms
        assert done.stdout.count("tokens, as trained") == 2


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
    both = orpo_here("data", recipe, "--row", "train.jsonl:4", "--row", "1")
    assert re.findall(r"^pair .*$", both.stdout, re.MULTILINE) == ["pair 3, train.jsonl:4", "pair 1, train.jsonl:2"]
    assert orpo_here("data", recipe, "--row", "²").returncode == 2
    missing = orpo_here("data", recipe, "--row", "train.jsonl:99")
    assert missing.returncode == 2
    assert "train.jsonl:1" in missing.stderr


def test_a_row_without_a_pair_is_explained(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, dataset={"eval": {"test_size": 9}})
    first, same, *others = pairs(12)
    write_json_lines(tmp_path / "train.jsonl", [first, {**same, "rejected": same["chosen"]}, {}, *others, first])
    reasons = {
        "train.jsonl:2": "dropped as identical: the two completions are identical.",
        "train.jsonl:3": "dropped as malformed: the row does not fit the format (no ",
        "train.jsonl:14": "dropped as duplicate: an earlier pair has the same tokens (as train.jsonl:1).",
    }
    for row, reason in reasons.items():
        done = orpo_here("data", recipe, "--row", row)
        assert done.returncode == 0
        assert f"row {row}: no pair, because the row is {reason}" in done.stdout
    done = orpo_here("data", recipe, *(word for row in (*reasons, "folder/train.jsonl:4") for word in ("--row", row)))
    assert all(reason in done.stdout for reason in reasons.values())
    assert "pair 1, train.jsonl:4" in done.stdout
    for row, reason in {
        "train.jsonl:99": "there is no pair of this number",
        "11": "Give a number from 0 to 10, or",
    }.items():
        unknown = orpo_here("data", recipe, "--row", "train.jsonl:4", "--row", row)
        assert (unknown.returncode, reason in unknown.stderr) == (2, True)
    assert orpo_here("data", recipe, "--row", "10").returncode == 0


def test_the_first_row_of_a_group_names_its_pair(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    answers = [("one", "yes", True), ("one", "no", False), ("two", "same", True), ("two", "same", False)]
    rows = [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in answers]
    write_json_lines(tmp_path / "train.jsonl", [*rows, {"prompt": "three", "completion": "alone", "label": True}])
    kept, dropped, alone = (orpo_here("data", recipe, "--row", f"train.jsonl:{row}") for row in (1, 3, 5))
    assert "train.jsonl:1+2" in kept.stdout
    assert "dropped as identical" in dropped.stdout
    assert "dropped as unpaired" in alone.stdout


def test_only_pairs_of_an_earlier_command_are_already_prepared(
    tmp_path: Path, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
    recipe = write_recipe(tmp_path)
    first = orpo_here("data", recipe).stderr
    pair_cache._prepared_here.clear()  # as in another process
    second = orpo_here("data", recipe).stderr
    assert "already prepared" not in first
    assert second.count("using pairs that are already prepared") == 1


def test_shown_pairs_come_without_the_statistics(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    rows = [*pairs(9), pairs(1)[0]]
    write_json_lines(tmp_path / "train.jsonl", rows)
    done = orpo_here("data", recipe, "--show", "2")
    assert done.returncode == 0, done.stderr
    first, *shown, last = done.stdout.splitlines()
    assert first.startswith("each token ends with")
    assert [line for line in shown if line.startswith("pair ")] == ["pair 0, train.jsonl:1", "pair 1, train.jsonl:2"]
    assert "correlation" not in done.stdout
    assert last == f"in all: 9 training pairs, 8 held out, 1 rows dropped. Statistics: orpo data {recipe}"
    assert {"report", "audit", "steps"} <= json.loads(orpo_here("data", recipe, "--show", "2", "--json").stdout).keys()


def test_turns_and_several_rejected_answers_are_counted_and_shown(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path, dataset={"turns": "all", "rejected": "all"})
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "good 1", "rejected": ["bad 1", "worse 1"]},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "good 2", "rejected": "bad 2"},
    ]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": messages}))
    done = orpo_here("data", recipe, "--row", "train.jsonl:1")
    assert [line for line in done.stdout.splitlines() if line.startswith("pair ")] == [
        f"pair {number}, train.jsonl:1#{number + 1}" for number in range(3)
    ]
    assert "pair 2, train.jsonl:1#3" in orpo_here("data", recipe, "--row", "train.jsonl:1#3").stdout
    every = orpo_here("data", recipe).stdout
    assert "turns: 1 rows read, 3 kept" in every
    assert "1 more pairs from rows with several turns" in every
    assert "1 more pairs from rows with several rejected answers" in every
    plan = " ".join(orpo_here("plan", recipe).stdout.split())
    assert "heldout.jsonl (8 pairs); a pair of each turn; rejected: all" in plan
    default = orpo_here("data", recipe, "--set", "dataset.turns=last", "--set", "dataset.rejected=first").stdout
    assert "1 earlier turns with a rejected answer are not used; dataset.turns: all makes a pair of each" in default


class PageParser(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.inline: list[tuple[str, str]] = []  # (tag, content) of scripts and style sheets
        self.feed(html)
        (data,) = (text for tag, text in self.inline if tag == "script" and text.startswith("{"))
        self.data = json.loads(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, str(value)) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] in ("script", "style") and data.strip():
            self.inline.append((self.tags[-1], data))

    def text_of(self, pair: dict[str, Any], part: str) -> str:
        return "".join(self.data["vocab"][number][1] for number in pair[part])


def test_the_html_page_has_the_pairs_and_loads_nothing(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    hostile = "</script><script>alert(1)</script> & <b>bold</b> [red]not[/red] <!-- \u202e {{ title }}"
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    first["chosen"][0]["content"] = hostile
    (tmp_path / "train.jsonl").write_text("\n".join([json.dumps(first), *rows[1:]]))
    done = orpo_here("data", recipe, "--show", "2", "--html", tmp_path / "pairs.html")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "pairs.html").read_text()
    page = PageParser(html)
    assert not {name for name, _ in page.attributes} & {"src", "href", "style", "onclick"}
    assert not {"link", "img", "iframe", "object", "b"} & set(page.tags)
    assert page.tags.count("script") == 2
    assert "url(" not in html
    for tag, text in page.inline:
        if (tag, text[:1]) != ("script", "{"):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            policies = [value for name, value in page.attributes if name == "content"]
            assert f"{tag}-src 'sha256-{digest}'" in policies[0]
    pairs = [pair for pair in page.data["pairs"] if pair["part"] == "train"]
    assert len(pairs) == 2
    assert hostile.replace("\u202e", "\\u202e") in page.text_of(pairs[0], "chosen")
    assert "24 rows read, 24 kept" in page.text
    assert {role for *_, role in page.data["vocab"]} == {"prompt_nll", "chosen", "rejected", "end"}
    assert "\n⟦" not in done.stdout


def test_the_html_page_has_truncated_pairs_and_dropped_rows_with_their_reasons(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[4]["chosen"][0]["content"] = "words " * 300
    secret = "hf_" + "aB3dE5gH7j" * 3
    rows[5] = {"prompt": [], "chosen": secret}
    rows.append(rows[0])
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):  # also where the pairs are in the cache
        done = orpo_here("data", recipe, "--html", tmp_path / "pairs.html")
        assert done.returncode == 0, done.stderr
        page = PageParser((tmp_path / "pairs.html").read_text())
        dropped = {row["row"]: row for row in page.data["dropped"]}
        assert dropped["train.jsonl:3"]["reason"].startswith("identical: ")
        assert dropped["train.jsonl:3"]["texts"][1] == rows[2]["chosen"][0]["content"]
        assert dropped["train.jsonl:6"]["reason"].startswith("malformed: ")
        assert dropped["train.jsonl:25"]["reason"].startswith("duplicate: ")
        assert "What is 0 plus 0?" in dropped["train.jsonl:25"]["texts"][0]
        assert len(dropped) == 3
        assert secret not in json.dumps(page.data)
        cut = [pair["row"] for pair in page.data["pairs"] if any(pair["cut"])]
        assert cut == ["train.jsonl:5"]
        assert {pair["part"] for pair in page.data["pairs"]} == {"train", "eval"}


def test_many_truncated_pairs_are_a_warning_with_the_length_that_mends_it(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    shown = orpo_here("data", recipe, "--set", "training.max_length=48", "--set", "dataset.max_prompt_length=40").stdout
    found = re.search(r"dataset\.train: warning: (\d+)% of the pairs .* training\.max_length=(\d+) truncates", shown)
    assert found is not None, shown
    assert int(found[1]) > 20
    assert "[pairs-truncated]" in shown
    assert "orpo explain pairs-truncated" in shown
    mended = orpo_here("data", recipe, "--set", f"training.max_length={found[2]}", "--json")
    truncation = json.loads(mended.stdout)["audit"]["train"]["truncation"]
    assert truncation["fraction"] <= 0.05
    assert truncation["warning"] is None
    assert "warning" not in orpo_here("data", recipe).stdout  # 24 pairs are no evidence of a length bias


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
    page = PageParser(html.read_text())
    assert page.tags.count("script") == 2
    assert "b" not in page.tags
    assert f"{name}: training data" in page.text
    assert "<b>{title}</b>" in page.text_of(page.data["pairs"][0], "chosen")


def test_a_row_of_a_folder_is_found_by_its_name_and_explained(tmp_path: Path, orpo_here: Orpo) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "folder" / "train").mkdir(parents=True)
    first, *others = pairs(6)
    write_json_lines(
        tmp_path / "folder" / "train" / "a.jsonl", [first, {**first, "rejected": first["chosen"]}, *others]
    )
    source = ("--set", f"dataset.train={{path: {tmp_path / 'folder'}}}")
    listed = json.loads(orpo_here("data", recipe, *source, "--json", "--show", "1").stdout)["pairs"][0]["row"]
    assert listed.endswith("/train/a.jsonl:1")
    shown = orpo_here("data", recipe, *source, "--row", listed, "--row", f"{listed[:-1]}2")
    assert shown.returncode == 0, shown.stderr
    assert f"pair 0, {listed}" in shown.stdout
    assert f"row {listed[:-1]}2: no pair, because the row is dropped as identical" in shown.stdout
