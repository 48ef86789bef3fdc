"""Table of runs: columns by width, values in full, CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.recorded_runs import write_recorded_run

from orpo_cli.report.run_history import read_history
from orpo_cli.report.runs_table import RunRow, run_rows, runs_csv, runs_table


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[RunRow]:
    folder = tmp_path_factory.mktemp("sweep")
    changes = [
        (1e-5, 0.1, (0.5, 0.53125, 0.59375)),
        (5e-5, 0.1, (0.5, 0.71875, 0.6875)),
        (5e-5, 0.5, (0.5, 0.75, 0.875)),
    ]
    runs = [
        write_recorded_run(
            folder / f"learning_rate={rate:g},beta={beta:g}",
            accuracies=accuracies,
            values={"training.learning_rate": (rate, "override"), "training.beta": (beta, "override")},
        )
        for rate, beta, accuracies in changes
    ]
    return run_rows([read_history(run) for run in runs])


def test_all_columns_where_there_is_space(rows: list[RunRow]) -> None:
    text, left_out = runs_table(rows, 1000)
    header, first, *_ = text.splitlines()
    assert left_out == []
    assert " ".join(header.split()) == (
        "run status beta learning_rate steps base best best 95% best at saved saved 95% margin time tokens/s memory"
    )
    assert " ".join(first.split()[1:]) == (
        "finished 0.1 1e-05 20 0.500 0.594 [0.471, 0.705] 20 0.594 [0.471, 0.705] 1.594 1 min 02 s 512 1.75 GB"
    )


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
def test_narrow_terminals_lose_columns_and_no_digit(rows: list[RunRow], width: int) -> None:
    text, left_out = runs_table(rows, width)
    lines = text.splitlines()
    if lines[0].startswith("in "):
        lines = lines[1:]
    assert max(map(cell_len, lines)) <= width
    assert {"status", "learning_rate", "beta", "best", "saved"} <= set(lines[0].split())
    whole_header = runs_table(rows, 1000)[0].splitlines()[0].split()
    assert set(lines[0].split()) <= set(whole_header)
    assert [line.split()[0].rpartition("/")[2] for line in lines[1:]] == [Path(row.path).name for row in rows]
    best = lines[0].index("best") + len("best")
    assert [line[:best].split()[-1] for line in lines[1:]] == ["0.594", "0.719", "0.875"]
    assert bool(left_out) == (len(lines[0].split()) < len(whole_header))


@pytest.mark.parametrize("width", [30, 40, 60, 70])
def test_without_space_for_the_essential_columns_each_run_is_a_block_with_all_values(
    rows: list[RunRow], width: int
) -> None:
    text, left_out = runs_table(rows, width)
    folder, *lines = text.splitlines()
    assert folder == f"in {Path(rows[0].path).parent}:"
    assert left_out == []
    assert [line for line in lines if not line.startswith(" ")] == [Path(row.path).name for row in rows]
    assert max(map(cell_len, lines)) <= width
    first = lines[1 : lines.index(Path(rows[1].path).name)]
    assert ", ".join(line.strip() for line in first) == (
        "status finished, beta 0.1, learning_rate 1e-05, steps 20, base 0.500, best 0.594, best 95% [0.471, 0.705], best at 20, "
        "saved 0.594, saved 95% [0.471, 0.705], margin 1.594, time 1 min 02 s, tokens/s 512, memory 1.75 GB"
    )


def test_a_pipe_gets_blocks_where_the_table_is_too_wide(tmp_path: Path) -> None:
    names = ["a-long-name-of-a-run-with-its-values", "another-one"]
    runs = [
        write_recorded_run(tmp_path / name, values={"model.model_name_or_path": (f"someone/{name}" * 2, "recipe")})
        for name in names
    ]
    text, left_out = runs_table(run_rows([read_history(run) for run in runs]))
    lines = text.splitlines()
    assert left_out == []
    assert [line for line in lines if not line.startswith(" ")] == list(map(str, runs))
    assert max(map(cell_len, lines)) <= 160
    assert text.count("saved 95% [0.632, 0.840]") == 2


def test_the_interval_and_the_changed_keys_stay_longer_than_time_and_memory(rows: list[RunRow]) -> None:
    text, left_out = runs_table(rows, 100)
    assert {"learning_rate", "beta", "95%"} <= set(text.splitlines()[1].split())
    assert left_out[-3:] == ["time", "tokens/s", "memory"]


def test_a_long_folder_is_printed_once(rows: list[RunRow]) -> None:
    text, _ = runs_table(rows, 80)
    folder = str(Path(rows[0].path).parent)
    assert text.startswith(f"in {folder}:\n")
    assert text.count(folder) == 1


def test_what_is_not_recorded_is_empty(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", accuracies=(0.5,), status="running", versioned=False)
    (run / "data_report.json").unlink()
    (row,) = run_rows([read_history(run)])
    text, _ = runs_table([row])
    assert [line.split() for line in text.splitlines()] == [["run", "status"], [str(run), "killed"]]
    assert (row.steps, row.base, row.best, row.last, row.seconds, row.peak_memory_gb) == (None,) * 6


def test_a_run_that_goes_on_shows_its_steps_of_all(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", status="interrupted")
    (row,) = run_rows([read_history(run)])
    assert (row.steps, row.total_steps, row.seconds, row.tokens_per_second) == (20, 20, 50.0, 520.0)
    assert "20/20" in runs_table([row])[0]


def test_values_of_every_kind_have_a_short_text(tmp_path: Path) -> None:
    values = [
        {"dataset.train": ([{"path": "/a/very/long/folder/of/data/one.jsonl"}], "recipe"), "lora.target_modules": (list("abcdefg"), "recipe")},
        {"dataset.train": ([{"path": "b.jsonl"}, {"path": "c.jsonl"}], "recipe"), "lora.target_modules": ("all-linear", "recipe")},
        {"model.model_name_or_path": ("x\x1b[31m\ny", "recipe"), "training.bf16": (True, "recipe"), "training.z": ({"a": 1, "b": None}, "recipe")},
    ]  # fmt: skip
    runs = [write_recorded_run(tmp_path / str(index), values=each) for index, each in enumerate(values)]
    text = runs_table(run_rows([read_history(run) for run in runs]), 1000)[0]
    assert len(text.splitlines()) == 4
    for part in ("one.jsonl", "b.jsonl, c.jsonl", "7 items", "all-linear", "x\\x1b[31m\\ny", "true", "a=1"):
        assert part in text
    assert "/a/very/long" not in text
    assert "\x1b" not in text


def test_the_same_name_in_two_sections_is_shown_in_full(tmp_path: Path) -> None:
    values = [{"merge.dtype": ("float32", "recipe"), "export.dtype": ("float32", "recipe")}, {"merge.dtype": ("float16", "recipe"), "export.dtype": ("float16", "recipe")}]  # fmt: skip
    runs = [write_recorded_run(tmp_path / str(index), values=each) for index, each in enumerate(values)]
    header = runs_table(run_rows([read_history(run) for run in runs]), 1000)[0].splitlines()[0]
    assert "merge.dtype" in header
    assert "export.dtype" in header


def test_csv_has_every_number_in_full(rows: list[RunRow]) -> None:
    first, second, _ = csv.DictReader(io.StringIO(runs_csv(rows)))
    assert (first["training.learning_rate"], first["training.beta"]) == ("1e-05", "0.1")
    assert (second["best_step"], second["best_accuracy"], second["last_accuracy"]) == ("10", "0.71875", "0.6875")
    assert float(second["best_low"]) < 0.71875 < float(second["best_high"])
    assert (second["base_accuracy"], second["peak_memory_gb"], second["problems"]) == ("0.5", "1.75", "")


def test_a_spreadsheet_computes_no_cell(tmp_path: Path) -> None:
    run = write_recorded_run(tmp_path / "run", run={"name": "=HYPERLINK(1)"})
    other = write_recorded_run(
        tmp_path / "other", values={"training.optim": ("@x", "recipe"), "training.beta": (-0.5, "recipe")}
    )
    rows = list(csv.DictReader(io.StringIO(runs_csv(run_rows([read_history(run), read_history(other)])))))
    assert rows[0]["name"] == "'=HYPERLINK(1)"
    assert (rows[1]["training.optim"], rows[1]["training.beta"]) == ("'@x", "-0.5")


def test_the_saved_weights_may_be_those_of_an_earlier_evaluation(tmp_path: Path) -> None:
    run = write_recorded_run(
        tmp_path / "run",
        accuracies=(0.5, 0.75, 0.625),
        values={"training.load_best_model_at_end": (True, "decided")},
        run={"best_checkpoint": "/runs/x/checkpoints/checkpoint-10"},
    )
    (row,) = run_rows([read_history(run)])
    assert row.saved == row.best
    assert (row.last and row.last.step, row.saved and row.saved.step) == (20, 10)
