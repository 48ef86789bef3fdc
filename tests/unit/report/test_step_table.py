"""Table of training steps: which columns a width has, whole numbers, and when the header appears."""

from __future__ import annotations

import pytest

from orpo_cli.report.step_table import COLUMNS, MOST_IMPORTANT_FIRST, StepTable, step_cells

VALUES = {
    "loss": 2.34567, "nll_loss": 1.98765, "log_odds_ratio": -0.35802, "rewards/accuracies": 0.625, "logps/chosen": -1.0, "logps/rejected": -0.98766,
    "grad_norm": 12.3456, "learning_rate": 6.9e-4, "tokens_per_second": 1034.2, "memory_gb": 4.123,
}  # fmt: skip
EVALUATION = {name: VALUES[name] for name in list(VALUES)[:6]}


def test_every_column_has_an_importance() -> None:
    assert {name for name, *_ in COLUMNS} == set(MOST_IMPORTANT_FIRST)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (20, "loss"),
        (40, "loss accuracy margin"),
        (60, "loss OR loss accuracy margin tok/s"),
        (80, "loss NLL OR loss accuracy margin lr tok/s"),
        (100, "loss NLL OR loss accuracy margin grad norm lr tok/s GB"),
        (160, "loss NLL OR loss accuracy margin grad norm lr tok/s GB"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_numbers(width: int, titles: str) -> None:
    table = StepTable(1000)
    header, row = table.rows("1000", VALUES, width, 24, is_evaluation=False)
    assert header.text.split() == f"step {titles}".split()
    assert max(len(header.text), len(row.text)) < width
    forms = {title: step_cells(VALUES)[name] for name, title, _ in COLUMNS}
    assert row.text.split() == ["1000", *(forms[title] for title in forms if title in titles)]


def test_the_odds_ratio_loss_is_positive_and_falls_as_in_the_paper() -> None:
    assert step_cells({"log_odds_ratio": -0.6931, "loss": 2}) == {"log_odds_ratio": "0.6931", "loss": "2.0000"}
    assert step_cells({"log_odds_ratio": 0.0}) == {"log_odds_ratio": "0.0000"}


def test_cells_are_below_their_titles_also_in_an_evaluation() -> None:
    table = StepTable(1000)
    header, row = table.rows("8", VALUES, 100, 24, is_evaluation=False)
    (evaluation,) = table.rows("eval 8", EVALUATION, 100, 24, is_evaluation=True)
    for line in (row, evaluation):
        assert line.text[: header.text.index("accuracy") + 8].endswith("0.62")
    assert (row.style, evaluation.style) == ("", "bold")
    assert len(evaluation.text) < len(row.text)


def test_a_number_that_is_wider_than_usual_takes_the_place_of_another_column() -> None:
    table = StepTable(10)
    table.rows("1", VALUES, 92, 24, is_evaluation=False)
    header, row = table.rows("2", {**VALUES, "loss": 1234567.891}, 92, 24, is_evaluation=False)
    assert "1234567.8910" in row.text
    assert "GB" not in header.text
    assert len(row.text) < 92


def test_the_header_comes_again_after_a_screenful_and_after_a_resize() -> None:
    table = StepTable(100)
    counts = [len(table.rows(str(step), VALUES, 80, 24, is_evaluation=False)) for step in range(1, 60)]
    assert [step for step, count in enumerate(counts, 1) if count == 2] == [1, 23, 45]
    assert len(table.rows("60", VALUES, 60, 24, is_evaluation=False)) == 2
    assert len(table.rows("61", VALUES, 60, 24, is_evaluation=False)) == 1
