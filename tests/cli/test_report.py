"""`orpo report`: which runs, where the page goes, assertions, charts, following a run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.recorded_runs import write_recorded_run

from orpo_cli.file_lock import try_lock
from orpo_cli.run_lock import RunLock
from orpo_cli.run_records import write_record

Orpo = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs in ./runs."""
    monkeypatch.chdir(tmp_path)
    for name, last in (("a", 0.75), ("b", 0.875)):
        write_recorded_run(tmp_path / "runs" / name, accuracies=(0.5, 0.625, last), run={"name": name})
    return tmp_path / "runs"


def test_the_page_of_one_run_is_in_the_run(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("report", "runs/a")
    assert (done.returncode, done.stdout) == (0, "runs/a/report/index.html\n")
    assert "</html>" in (runs / "a" / "report" / "index.html").read_text()


def test_a_folder_counts_as_its_runs_and_no_run_twice(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("report", "runs", "--json")
    document = json.loads(done.stdout)
    assert (document["status"], document["page"], document["runs"]) == (
        "written",
        "runs/report/index.html",
        ["runs/a", "runs/b"],
    )
    document = json.loads(orpo_here("report", "runs/b", "runs", "-o", "x.html", "--json").stdout)
    assert (document["page"], document["runs"]) == ("x.html", ["runs/b", "runs/a"])
    for _ in range(2):  # a report is written again
        assert orpo_here("report", "runs/a", "runs/b").stdout == "report.html\n"
    Path("report.html").write_text("<html>of somebody</html>")
    assert "is not a report" in orpo_here("report", "runs/a", "runs/b").stderr
    assert "runs/report" not in orpo_here("runs").stdout  # the folder of the page is no run


@pytest.mark.parametrize("path", ["runs/a", "runs"])
def test_a_page_of_somebody_is_not_replaced(runs: Path, orpo_here: Orpo, path: str) -> None:
    page = Path(path, "report", "index.html")
    page.parent.mkdir()
    page.write_text("<html>of somebody</html>")
    done = orpo_here("report", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{page} exists already, and is not a report." in done.stderr
    assert page.read_text() == "<html>of somebody</html>"
    assert orpo_here("report", path, "-o", page).returncode == 0  # asked for


@pytest.mark.parametrize("options", [(), ("--follow",)])
def test_runs_of_other_machines_are_watched_at_once(
    runs: Path, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Each takes 15 s where it was killed: the barrier is passed only by two at the same time."""
    for name in ("a", "b"):
        document = json.loads((runs / name / "run.json").read_text())
        (runs / name / "run.json").write_text(json.dumps({**document, "status": "running"}))
    both = threading.Barrier(2, timeout=10)

    def watch(path: Path) -> None:
        both.wait()
        time.sleep(0.3)

    monkeypatch.setattr("orpo_cli.report.run_history.live_owner", watch)
    monkeypatch.setattr("orpo_cli.workflows.runs._SECONDS_UNTIL_NOTE", 0.05)
    done = orpo_here("report", "runs", *options)
    assert done.returncode == 0, done.stderr
    assert "checking whether runs of other machines still train (2)" in done.stderr


def test_the_comparison_is_printed_too(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("report", "runs/a", "runs/b")
    assert "b against a: runs/a has no scores of held-out pairs. `orpo eval runs/a` computes them." in done.stderr
    for name, tuned in (("a", [1.0, -1.0]), ("b", [1.0, 2.0])):
        lines = [
            {"step": step, "pairs": ["x:1", "x:2"], "chosen": margins, "rejected": [0.0, 0.0]}
            for step, margins in ((0, [-1.0, -1.0]), (20, tuned))
        ]
        write_json_lines(runs / name / "eval_scores.jsonl", lines)
    printed = "b against a, 2 held-out pairs: accuracy 0.500 → 1.000 (1 won, 0 lost, p 1), margin +1.5000 ["
    done = orpo_here("report", "runs/a", "runs/b")
    assert (printed in done.stderr, "base model" in done.stderr, done.stdout) == (True, False, "report.html\n")
    document = json.loads(orpo_here("report", "runs/a", "--json").stdout)
    assert [(each["title"], each["second_accuracy"]) for each in document["comparisons"]] == [
        ("a against its base model", 0.5)
    ]


def test_a_metric_of_orpo_eval_needs_orpo_eval_first(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("report", "runs/a", "--assert", "tuned.accuracy > 0.5")
    assert done.returncode == 2
    assert "tuned.accuracy is a metric of `orpo eval`, which has not evaluated runs/a." in done.stderr
    assert "Run `orpo eval runs/a` first." in done.stderr
    done = orpo_here("runs", "--best", "max(base.margin)")
    assert (done.returncode, "`orpo eval`, which has evaluated none of 2 runs" in done.stderr) == (2, True)
    write_record(runs / "a" / "evaluation.json", {"models": {"tuned": {"rewards/accuracies": 0.75}}})
    assert orpo_here("report", "runs/a", "--assert", "tuned.accuracy > 0.5").returncode == 0
    assert "Did you mean `tuned.accuracy`?" in orpo_here("report", "runs/a", "--assert", "tuned.acuracy > 0").stderr


def test_assertions_are_checked_for_every_run(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("report", "runs", "--assert", "eval.accuracy[-1] > 0.7", "--assert", "last(loss) < first(loss)")
    assert done.returncode == 0, done.stderr
    assert "eval.accuracy[-1] > 0.7: holds (eval.accuracy[-1] is 0.75)" in done.stderr
    done = orpo_here("report", "runs", "--assert", "eval.accuracy[-1] > 0.8", "--json")
    assert done.returncode == 5
    assert "runs/a: eval.accuracy[-1] > 0.8: does not hold (eval.accuracy[-1] is 0.75)" in done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["exit_code"]) == ("run", 5)
    assert [(each["run"], each["holds"]) for each in document["assertions"]] == [("runs/a", False), ("runs/b", True)]
    assert (runs / "report" / "index.html").exists()  # also then


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("runs/a", "--assert", "eval.acuracy[-1] > 0.7"), "Did you mean `eval.accuracy`?"),
        (("runs/a", "--assert", "loss[-1]"), "compares nothing"),
        (("runs/a/checkpoints",), "no run there or below"),
        (("elsewhere",), "no such directory"),
        (("runs/a", "-o", "missing/page.html"), "there is no folder"),
        (("runs/a", "-o", "runs"), "it is a folder"),
        ((), "Missing argument"),
    ],
)
def test_errors_of_usage_write_no_page(runs: Path, orpo_here: Orpo, arguments: tuple[str, ...], message: str) -> None:
    done = orpo_here("report", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(runs.rglob("*.html"))


def test_charts_are_written_as_svg(runs: Path, orpo_here: Orpo) -> None:
    document = json.loads(orpo_here("report", "runs", "--svg", "new/figures", "--json").stdout)
    assert "new/figures/accuracy.svg" in document["charts"]
    assert all(Path(chart).read_text().startswith("<svg") for chart in document["charts"])
    (runs / "file").write_text("")
    assert orpo_here("report", "runs", "--svg", "runs/file/x").returncode == 3


def test_a_sweep_is_followed_between_its_trials(runs: Path, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo_cli.workflows.report.FOLLOW_SECONDS", 0.05)
    lock = try_lock(runs / ".lock")  # as the process of a sweep holds it, while no run goes on
    assert lock is not None
    timer = threading.Timer(1.5, lock.release)
    started = time.monotonic()
    timer.start()
    assert orpo_here("report", "runs", "--follow").returncode == 0
    assert time.monotonic() - started > 1.4


def test_a_sweep_is_followed_before_its_first_trial(tmp_path: Path, orpo_here: Orpo, monkeypatch: Any) -> None:
    monkeypatch.setattr("orpo_cli.workflows.report.FOLLOW_SECONDS", 0.05)
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    assert orpo_here("report", sweep, "--follow").returncode == 2  # nobody will begin a run there
    lock = try_lock(sweep / ".lock")
    assert lock is not None

    def begin_and_end() -> None:
        write_recorded_run(sweep / "first")
        lock.release()

    threading.Timer(0.5, begin_and_end).start()
    done = orpo_here("report", sweep, "--follow")
    assert done.returncode == 0, done.stderr
    assert (sweep / "report" / "index.html").is_file()


def test_a_page_follows_a_run_until_it_ends(runs: Path, orpo_here: Orpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo_cli.workflows.report.FOLLOW_SECONDS", 0.05)
    page = runs / "c" / "report" / "index.html"
    run = write_recorded_run(runs / "c", status="running")
    lock = RunLock.acquire(run, lambda text: None)
    seen: list[str] = []

    def finish() -> None:
        while not page.exists():
            time.sleep(0.01)
        seen.append(page.read_text())
        document = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**document, "status": "finished"}))
        lock.release()

    thread = threading.Thread(target=finish)
    thread.start()
    done = orpo_here("report", run, "--follow")
    thread.join()
    assert done.returncode == 0, done.stderr
    assert 'http-equiv="refresh"' in seen[0]
    assert 'http-equiv="refresh"' not in page.read_text()
