"""Report page in a browser: charts at desktop and phone width, light and dark; nothing leaves the page; hostile texts stay texts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, browser, needs_browser
from support.json_lines import write_json_lines
from support.recorded_runs import write_recorded_run

from orpo_cli.report.page import render_report, write_report
from orpo_cli.report.page.document import MAX_POINTS, chart_document
from orpo_cli.report.run_differences import run_labels
from orpo_cli.report.run_history import read_history
from orpo_cli.report.svg_charts import CHARTS

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">'\"&amp;<b>"


def write_hostile_runs(folder: Path) -> list[Path]:
    runs = []
    for name, rate in (("a", 1e-5), ("b", 5e-5)):
        run = write_recorded_run(
            folder / name,
            values={
                "training.learning_rate": (rate, "override"),
                "training.optim": (HOSTILE + name, "recipe"),
                "name": (HOSTILE, "recipe"),
            },
            run={"name": f"</script><b>{name}", "versions": {HOSTILE: name + HOSTILE}, "command": ["orpo", HOSTILE]},
        )
        (run / "recipe.yaml").write_text(f"# {HOSTILE}\n")
        answers = [{"prompt": HOSTILE, "base": {"text": HOSTILE}, "tuned": {"text": HOSTILE}}]
        (run / "samples.json").write_text(json.dumps({"answers": answers}))
        write_json_lines(
            run / "eval_scores.jsonl",
            [
                {"step": step, "pairs": ["x:1", "x:2"], "chosen": [1.0, step / 10], "rejected": [0.5, 1.0]}
                for step in (0, 20)
            ],
        )
        lines = [json.dumps({"kind": "event", "event": "watchdog", "step": 3, "code": HOSTILE, "message": HOSTILE})]
        with (run / "metrics.jsonl").open("a") as file:
            file.write("\n".join(lines) + "\n")
        report = json.loads((run / "data_report.json").read_text())
        (run / "data_report.json").write_text(json.dumps({**report, "dropped": {"x": 3}, "reasons": {"x": HOSTILE}}))
        runs.append(run)
    return runs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    histories = [read_history(run) for run in write_hostile_runs(folder)]
    return write_report(histories, folder / "page.html")


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_charts_are_drawn_and_nothing_leaves_the_page(
    chrome: Browser, page: Path, width: int, height: int, dark: bool
) -> None:
    opened = chrome.open(page, width=width, height=height, dark=dark)
    assert opened.evaluate("document.documentElement.dataset.charts") == str(len(CHARTS))
    assert opened.evaluate("document.title") == "2 runs · orpo report"  # no script of a text has run
    assert opened.problems == []
    assert opened.requests == []
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(17, 17, 19)" if dark else "rgb(255, 255, 255)")
    painted = """[...document.querySelectorAll('.plot canvas')].every(canvas => {
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.some((value, index) => index % 4 === 3 && value > 0);
    })"""
    assert opened.evaluate(painted)


@needs_browser
def test_controls_change_the_charts(chrome: Browser, page: Path) -> None:
    opened = chrome.open(page, width=1000, height=800)
    choose = "(() => {{ const c = document.getElementById('controls'); c.{0}.value = '{1}'; c.{0}.dispatchEvent(new Event('{2}')); }})()"
    opened.evaluate(choose.format("x", "hours", "change"))
    opened.evaluate(choose.format("smoothing", "0.9", "input"))
    assert opened.evaluate("location.hash") == "#x=hours&smoothing=0.9"  # a page that reloads itself keeps the choices
    assert opened.evaluate("document.querySelectorAll('.plot').length") == len(CHARTS)
    opened.evaluate(
        "document.querySelectorAll('#legend input').forEach(box => { box.checked = false; box.dispatchEvent(new Event('change')); })"
    )
    assert opened.evaluate("document.querySelectorAll('.plot').length") == 0
    assert opened.problems == []


@needs_browser
def test_the_theme_can_be_chosen_and_paper_is_light(chrome: Browser, page: Path) -> None:
    opened = chrome.open(page, width=1000, height=800, dark=True)
    background = "getComputedStyle(document.body).backgroundColor"
    opened.evaluate("document.getElementById('theme').click()")
    assert opened.evaluate(background) == "rgb(255, 255, 255)"
    assert "theme=light" in opened.evaluate("location.hash")  # a page that reloads itself keeps it
    opened.evaluate("document.getElementById('theme').click()")
    assert opened.evaluate(background) == "rgb(17, 17, 19)"
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(background) == "rgb(255, 255, 255)"
    assert opened.evaluate("Math.max(...[...document.querySelectorAll('.uplot')].map(plot => plot.clientWidth))") == 320
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate(background) == "rgb(17, 17, 19)"
    name = opened.evaluate("document.querySelector('.plot').getAttribute('aria-label')")
    assert name.startswith("loss by step. ")
    assert "from" in name
    assert opened.problems == []


def test_the_page_has_the_status_and_the_licence_of_the_charts(page: Path) -> None:
    text = page.read_text()
    assert "<p>2 finished · different: " in text
    assert "Copyright (c) 2022 Leon Sorokin" in text


def test_every_text_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("<script") == 3
    assert "\\u003c/script" in text  # in the labels of the charts
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert not re.search(
        r"""(?:src|href)=["']?(?!data:)[\w/]""",
        re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL).replace("&lt;img src=x", ""),
    )


def test_a_page_of_fifty_runs_is_small_and_fast(tmp_path: Path) -> None:
    histories = [
        read_history(
            write_recorded_run(
                tmp_path / str(number),
                accuracies=[0.5 + step / 100 for step in range(31)],
                values={"training.seed": (number, "override")},
            )
        )
        for number in range(50)
    ]
    started = time.monotonic()
    page = render_report(histories)
    assert time.monotonic() - started < 4.0  # 2 s on a quiet machine
    assert len(page.encode()) < 5_000_000


def test_long_curves_are_thinned_and_keep_their_spikes(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run")
    lines = [
        {"step": step, "loss": 50.0 if step == 7_001 else 1.0, "elapsed": step * 1.0, "pairs": step * 4}
        for step in range(1, 10_001)
    ]
    write_json_lines(run / "metrics.jsonl", lines)
    histories = [read_history(run)]
    document = chart_document(histories, run_labels(histories))
    curve = document["charts"][0]["curves"][0]
    assert len(curve["y"]) <= MAX_POINTS
    assert max(curve["y"]) == 50.0
    assert (curve["x"]["step"][-1], curve["x"]["pairs"][-1]) == (10_000, 40_000)


def test_a_run_of_an_older_version_and_one_without_metrics_have_a_page(tmp_path: Path) -> None:
    older = read_history(write_recorded_run(tmp_path / "older", versioned=False))
    empty = write_recorded_run(tmp_path / "empty")
    for name in ("metrics.jsonl", "plan.json", "data_report.json", "recipe.yaml"):
        (empty / name).unlink()
    assert "plan.json is missing" in render_report([older, read_history(empty)])


def test_a_page_that_follows_reloads_itself(tmp_path: Path) -> None:
    histories = [read_history(write_recorded_run(tmp_path / "run"))]
    assert '<meta http-equiv="refresh" content="5">' in render_report(histories, reload_seconds=5.0)
    assert 'http-equiv="refresh"' not in render_report(histories)
