"""`orpo runs`: the table, sorting, the best run for a script, JSON and CSV, and what is not a run."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.json_lines import write_json_lines
from support.recorded_runs import write_recorded_run

Orpo = Callable[..., Any]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs in ./runs, in the order of their start: low, high, unfinished."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    rates = {"low": 1e-5, "high": 5e-5, "unfinished": 1e-4}
    accuracies = {"low": (0.5, 0.875, 0.625), "high": (0.5, 0.625, 0.75), "unfinished": (0.5, 0.75, 0.9375)}
    for index, name in enumerate(rates):
        write_recorded_run(
            folder / name,
            accuracies=accuracies[name],
            status="interrupted" if name == "unfinished" else "finished",
            values={"training.learning_rate": (rates[name], "override")},
            run={"started_at": f"2026-11-28T05:0{index}:00Z"},
        )
    return folder


def first_cells(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[1:]]


def test_runs_of_the_default_folder_in_the_order_of_their_start(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("runs", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert first_cells(done.stdout) == ["runs/low", "runs/high", "runs/unfinished"]
    header, low, *_ = done.stdout.splitlines()
    assert "learning_rate" in header
    assert "beta" not in header  # the same in all runs
    assert "0.875  [0.772, 0.935]" in low


def test_sorted_by_a_metric_with_the_best_run_first(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("runs", "--sort", "eval.accuracy")
    assert first_cells(done.stdout) == ["runs/unfinished", "runs/high", "runs/low"]
    assert "sorted by eval.accuracy, highest first" in done.stderr
    assert first_cells(orpo_here("runs", "--sort", "eval.loss").stdout) == ["runs/unfinished", "runs/high", "runs/low"]
    assert first_cells(orpo_here("runs", "--sort", "eval_loss[1]").stdout) == [
        "runs/low",
        "runs/unfinished",
        "runs/high",
    ]
    assert first_cells(orpo_here("runs", "--sort", "max(eval.accuracy)").stdout)[1] == "runs/low"
    by_time = first_cells(orpo_here("runs", "--sort", "run.seconds").stdout)
    assert by_time[-1] == "runs/unfinished"  # it has no value


def test_the_column_margin_says_that_it_is_without_beta(runs: Path, orpo: Orpo, orpo_here: Orpo) -> None:
    assert "chosen minus that of rejected, without beta" in orpo_here("runs").stderr
    assert "without beta" not in orpo("runs", env={**os.environ, "COLUMNS": "60"}).stderr  # no space for it


def test_best_prints_only_the_path_of_a_finished_run(runs: Path, orpo_here: Orpo) -> None:
    done = orpo_here("runs", "--best", "eval.accuracy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs/high\n", "")
    assert orpo_here("runs", runs, "--best", "max(eval.accuracy)").stdout == f"{runs / 'low'}\n"
    document = json.loads(orpo_here("runs", "--best", "eval.accuracy", "--json").stdout)
    assert document == {"path": "runs/high", "metric": "eval.accuracy", "value": 0.75}


def test_a_run_whose_last_loss_was_not_finite_is_not_the_best(runs: Path, orpo_here: Orpo) -> None:
    assert orpo_here("runs", "--best", "eval.loss").stdout == "runs/high\n"
    for name, expected in (("high", (0, "runs/low\n")), ("low", (2, ""))):
        path = runs / name / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["step"] == 20:
                line.pop("eval_loss", None)
        write_json_lines(path, lines)
        done = orpo_here("runs", "--best", "eval.loss")
        assert (done.returncode, done.stdout) == expected
    assert "none of 2 runs has a value of eval.loss: in the evaluation of the saved weights it was not" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--best", "eval.acuracy"), "Did you mean `eval.accuracy`?"),
        (("--sort", "nonsense"), "none of 3 runs has the metric 'nonsense'"),
        (("--best", "eval.accuracy[-1] > 0.7"), "it is a comparison"),
        (("runs/unfinished", "--best", "eval.accuracy"), "none of 1 runs is finished"),
        (("runs/low/checkpoints", "--best", "eval.accuracy"), "there is no run"),
        (("elsewhere",), "elsewhere: no such directory"),
        (("runs/low/run.json",), "not a directory"),
        (("--csv", "--json"), "do not go together"),
        (("--csv", "--best", "loss"), "do not go together"),
    ],
)
def test_errors_name_the_cause(runs: Path, orpo_here: Orpo, arguments: tuple[str, ...], message: str) -> None:
    done = orpo_here("runs", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_json_and_csv_have_all_runs_and_numbers(runs: Path, orpo_here: Orpo) -> None:
    document = json.loads(orpo_here("runs", "--json").stdout)
    low, _, unfinished = document["runs"]
    assert (low["path"], low["changed"], low["best"]["step"]) == ("runs/low", {"training.learning_rate": 1e-5}, 10)
    assert low["best"]["interval"] == pytest.approx([0.77225, 0.93528], abs=1e-4)
    assert (unfinished["status"], unfinished["seconds"]) == ("interrupted", 50.0)
    rows = list(csv.DictReader(io.StringIO(orpo_here("runs", "--csv").stdout)))
    assert [row["last_accuracy"] for row in rows] == ["0.625", "0.75", "0.9375"]


def test_without_runs_a_note_and_an_empty_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orpo_here: Orpo
) -> None:
    monkeypatch.chdir(tmp_path)
    done = orpo_here("runs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "there is no folder runs here" in done.stderr
    assert json.loads(orpo_here("runs", ".", "--json").stdout)["runs"] == []


def test_damaged_and_foreign_directories_are_named(runs: Path, orpo_here: Orpo) -> None:
    (runs / "high" / "plan.json").write_text("{")
    (runs / "low" / "run.json").write_text("nothing")
    for name, content in (("mlflow", '{"run_id": 3}'), ("empty", ""), ("list", "[1, 2]")):
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(content)
    done = orpo_here("runs")
    assert done.returncode == 0
    assert sorted(first_cells(done.stdout)) == ["runs/high", "runs/low", "runs/unfinished"]
    for name in ("mlflow", "empty", "list"):
        assert f"runs/{name}: left out" in done.stderr
    assert "runs/high: plan.json: cannot be read" in done.stderr
    assert "runs/low: run.json: cannot be read" in done.stderr
    assert "unknown" in next(line for line in done.stdout.splitlines() if line.startswith("runs/low"))


def test_a_directory_that_cannot_be_read_is_no_traceback(runs: Path, orpo: Orpo) -> None:
    (runs / "closed").mkdir(mode=0)
    if os.access(runs / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    assert orpo("runs").returncode == 0


def test_runs_with_other_held_out_pairs_are_not_comparable(runs: Path, orpo_here: Orpo) -> None:
    report = json.loads((runs / "low" / "data_report.json").read_text())
    report["sources"][1]["fingerprint"] = "three"
    (runs / "low" / "data_report.json").write_text(json.dumps(report))
    assert "their evaluations cannot be compared" in orpo_here("runs").stderr
    best = orpo_here("runs", "--best", "eval.accuracy")
    assert best.stdout == "runs/high\n"
    assert "their evaluations cannot be compared" in best.stderr
    assert orpo_here("runs", "--best", "run.seconds").stderr == ""


def test_another_split_of_the_same_data_is_not_comparable(runs: Path, orpo_here: Orpo) -> None:
    """The rows are those of one file, but other ones: `dataset.shuffle_seed` or `test_size`."""
    for name, digest, rows in (
        ("low", "d1", ["x:1", "x:2"]),
        ("high", "d1", ["x:1", "x:2"]),
        ("unfinished", "d2", ["x:1", "x:2"]),
    ):
        document = json.loads((runs / name / "run.json").read_text())
        document["fingerprints"] = {"data": {"eval": {"pairs": 2, "digest": digest}}}
        (runs / name / "run.json").write_text(json.dumps(document))
        write_json_lines(
            runs / name / "eval_scores.jsonl", [{"step": 20, "pairs": rows, "chosen": [1, 1], "rejected": [0, 0]}]
        )
    assert "cannot be compared" not in orpo_here("runs").stderr  # the same rows with other tokens
    write_json_lines(
        runs / "unfinished" / "eval_scores.jsonl",
        [{"step": 20, "pairs": ["x:1", "x:3"], "chosen": [1, 1], "rejected": [0, 0]}],
    )
    different = "held out different pairs: their evaluations cannot be compared"
    assert different in orpo_here("runs").stderr
    document = json.loads((runs / "high" / "run.json").read_text())
    document["fingerprints"] = {"data": {"eval": {"pairs": 2, "digest": "d3"}}}
    (runs / "high" / "run.json").write_text(json.dumps(document))
    write_json_lines(
        runs / "high" / "eval_scores.jsonl",
        [{"step": 20, "pairs": ["x:2", "x:3"], "chosen": [1, 1], "rejected": [0, 0]}],
    )
    for metric in ("eval.accuracy", "saved.accuracy"):
        assert different in orpo_here("runs", "--best", metric).stderr
    assert different not in orpo_here("runs", "--best", "loss").stderr


def test_control_characters_in_names_do_not_reach_the_terminal(runs: Path, orpo_here: Orpo) -> None:
    (runs / "low").rename(runs / "l\x1b]0;x\x07\now")
    done = orpo_here("runs")
    assert "\x1b" not in done.stdout
    assert "runs/l\\x1b]0;x\\x07\\now" in done.stdout


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_a_terminal_shows_the_columns_that_fit(runs: Path, columns: int) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "orpo_cli", "runs"], stdout=child, stderr=subprocess.PIPE, env=environment, check=True,
        cwd=runs.parent, timeout=120, text=True,
    )  # fmt: skip
    os.close(child)
    text = b""
    while chunk := _read(parent):
        text += chunk
    os.close(parent)
    lines = text.decode().splitlines()
    assert max(map(len, lines)) <= columns
    assert first_cells("\n".join(lines)) == ["runs/low", "runs/high", "runs/unfinished"]
    assert ("no space for: " in done.stderr) == (columns < 140)
    assert [line.split()[lines[0].split().index("learning_rate")] for line in lines[1:]] == ["1e-05", "5e-05", "0.0001"]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_five_hundred_runs_take_less_than_two_seconds(tmp_path: Path, orpo: Orpo) -> None:
    """The whole command in a new process; twice as long is allowed, because tests run beside others."""
    for number in range(500):
        write_recorded_run(
            tmp_path / "runs" / f"run-{number:03d}",
            accuracies=(0.5, *(0.6 + number / 2000 for _ in range(5))),
            values={"training.learning_rate": (1e-5 + number * 1e-7, "override")},
        )
    started = time.monotonic()
    done = orpo("runs", "--sort", "eval.accuracy")
    seconds = time.monotonic() - started
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 501
    assert first_cells(done.stdout)[0] == "runs/run-499"
    assert seconds < 4.0


def test_it_imports_nothing_heavy(runs: Path) -> None:
    program = (
        "import sys\nfrom orpo_cli.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    code = ended.code\n"
        "print(code, [name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "runs"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=runs.parent,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.fixture
def named_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of two recipes, in another order of their start than of their names."""
    monkeypatch.chdir(tmp_path)
    for folder, recipe, day in (
        ("quickstart", "quickstart", 1), ("again", "quickstart", 5), ("sweep/trial-1", "quickstart", 3), ("helpful", "helpful", 2),
    ):  # fmt: skip
        record = {"name": recipe, "started_at": f"2026-11-0{day}T00:00:00+00:00"}
        write_recorded_run(tmp_path / "runs" / folder, run=record)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("quickstrt", "Did you mean runs/again, runs/sweep/trial-1 or runs/quickstart?"),
        ("quick", "Did you mean runs/again, runs/sweep/trial-1 or runs/quickstart?"),
        ("runs/helpfull", "Did you mean runs/helpful?"),
        ("helpfull.yaml", "Did you mean runs/helpful?"),
        ("trial", "Did you mean runs/sweep/trial-1?"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("eval",), ("merge",), ("runs",), ("report",), ("benchmark", "--task", "ifeval")],
    ids=lambda each: each[0],
)
def test_a_short_or_misspelt_name_is_answered_with_the_newest_runs_of_this_name(
    command: tuple[str, ...], name: str, remedy: str, named_runs: Path, orpo_here: Orpo
) -> None:
    done = orpo_here(command[0], name, *command[1:])
    assert done.returncode == 2
    assert remedy in done.stderr


def test_another_name_is_answered_with_no_run(named_runs: Path, orpo_here: Orpo) -> None:
    for name in ("zzz", "someone/quickstart-model"):
        assert "Did you mean" not in orpo_here("eval", name).stderr


@pytest.mark.parametrize("name", ["low", "low.yaml"])
@pytest.mark.parametrize(
    "command",
    [("merge",), ("export",), ("eval",), ("report",), ("generate", "--compare"), ("push-to-hub", "me/model")],
    ids=lambda each: each[0],
)
def test_the_name_of_a_run_or_of_its_recipe_is_answered_with_its_directory(
    command: tuple[str, ...], name: str, runs: Path, orpo_here: Orpo
) -> None:
    (runs.parent / "low.yaml").write_text("model: {}\n")
    done = orpo_here(command[0], name, *command[1:])
    assert done.returncode == 2
    assert "Did you mean runs/low?" in done.stderr


def test_a_missing_argument_names_the_help_of_its_command(orpo_here: Orpo) -> None:
    done = orpo_here("merge")
    assert done.returncode == 2
    assert "See `orpo merge --help`." in done.stderr
