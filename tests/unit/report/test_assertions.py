"""Assertions over metrics: the grammar, the values in the result, and that nothing else is evaluated."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.json_lines import write_json_lines
from support.recorded_runs import write_recorded_run

from orpo_cli.errors import UsageError
from orpo_cli.report.assertions import check_assertion, expression_value
from orpo_cli.report.run_history import RunHistory, read_history


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    return read_history(write_recorded_run(tmp_path_factory.mktemp("runs") / "run"))


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("eval.accuracy[-1] > 0.7", True),
        ("eval.accuracy[-1] > 0.75", False),
        ("eval.accuracy[-1] - eval.accuracy[0] >= 0.25", True),
        ("max(eval.accuracy) == last(eval.accuracy)", True),
        ("first(loss) > 3.8 and last(loss) < 2.1", True),
        ("mean(loss[-5:]) < mean(loss[:5])", True),
        ("min(loss) < 0 or len(loss) == 20", True),
        ("not eval.rewards/margins[-1] < 0.05", True),
        ("rewards/margins[-1] > 0", True),
        ("eval_loss[-1] < 3.5", True),
        ("0.5 < eval.accuracy[1] < 0.7", True),
        ("0.5 < eval.accuracy[1] < 0.6", False),
        ("(run.seconds < 60) or (run.steps != 20)", False),
        ("run.peak_memory_gb * 2 <= 3.5", True),
        ("abs(logps/chosen[-1] + 2) < 1e-6", True),
        ("-loss[0] < -3", True),
    ],
)
def test_expressions(history: RunHistory, expression: str, holds: bool) -> None:
    assert check_assertion(history, expression).holds is holds


def test_the_result_has_the_values_that_decided_it(history: RunHistory) -> None:
    result = check_assertion(history, "eval.accuracy[-1] > 0.8 or max(eval.rewards/margins) > 1")
    assert result.values == {"eval.accuracy[-1]": 0.75, "max(eval.rewards/margins)": 0.075}
    assert result.text() == (
        "eval.accuracy[-1] > 0.8 or max(eval.rewards/margins) > 1: does not hold "
        "(eval.accuracy[-1] is 0.75, max(eval.rewards/margins) is 0.075)"
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("eval.acuracy[-1] > 0.7", "Did you mean `eval.accuracy`? The run has "),
        ("eval.accuracy > 0.7", r"eval.accuracy has 3 values. Choose one: eval.accuracy\[-1\]"),
        ("eval.accuracy[-1]", "it is a value, and compares nothing"),
        ("eval.accuracy[7] > 0", "does not exist: there are 3 values"),
        ("eval.accuracy[3:] > 0", "is empty: there are 3 values"),
        ("eval.accuracy[0.5] > 0", "0.5 is not an index"),
        ("run.seconds[-1][0] > 0", "is one value, not a metric"),
        ("min(1) > 0", "1 is one value, not a metric"),
        ("loss[-1] > 0 and 3", "3 compares nothing"),
        ("(loss[-1] > 0) + 1 > 0", "is a comparison, not a number"),
        ("loss[-1] / 2 > 0", "has no meaning in an assertion"),
        ("loss[-1] ** 2 > 0", "has no meaning in an assertion"),
        ("loss[-1] is 3", "has no meaning in an assertion"),
        ("loss[-1] = 3", "An expression has metrics"),
        ("True", "True has no meaning in an assertion"),
        ("'a' < 'b'", "has no meaning in an assertion"),
        ("min(loss, key=abs) > 0", "has no meaning in an assertion"),
        ("__import__('os').system('true') == 0", "has no meaning in an assertion"),
        ("(lambda: 1)() > 0", "has no meaning in an assertion"),
        ("[each for each in loss][0] > 0", "has no meaning in an assertion"),
        ("loss.__class__ > 0", "has no metric 'loss.__class__'"),
        ("loss[-1].real > 0", "is not the name of a metric"),
        ("run.status == 1", "has no metric 'run.status'"),
        ("", "An expression has metrics"),
        ("(" * 500 + "1" + ")" * 400, "An expression has metrics"),
        ("9" * 999, "An expression has metrics"),
        ("1 < " * 400 + "1", "more than 1000 characters"),
        ("loss[-1] > \x00", "An expression has metrics"),
    ],
)
def test_other_expressions_are_errors_of_usage(history: RunHistory, expression: str, message: str) -> None:
    with pytest.raises(UsageError) as wrong:
        check_assertion(history, expression)
    text = f"{wrong.value} {wrong.value.remedy}"
    assert message.replace("\\", "") in text
    assert wrong.value.exit_code == 2


@given(st.text(max_size=40))
def test_any_text_is_a_result_or_an_error_of_usage(history: RunHistory, text: str) -> None:
    with suppress(UsageError):
        assert check_assertion(history, text).holds in (True, False)


def test_sorting_takes_the_evaluation_of_the_saved_weights(tmp_path: Path) -> None:
    run = write_recorded_run(
        tmp_path / "run",
        accuracies=(0.5, 0.75, 0.625),
        values={"training.load_best_model_at_end": (True, "decided")},
        run={"best_checkpoint": "checkpoints/checkpoint-10"},
    )
    history = read_history(run)
    assert expression_value(history, "eval.accuracy") == expression_value(history, "eval_rewards/accuracies") == 0.75
    assert expression_value(history, "eval.accuracy[-1]") == 0.625
    assert check_assertion(history, "saved.accuracy == 0.75 and saved.loss == eval.loss[1]").holds


@pytest.fixture
def diverged(tmp_path: Path) -> RunHistory:
    """A run whose last evaluation has no loss, as one that was not a finite number is left out."""
    run = write_recorded_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    write_json_lines(run / "metrics.jsonl", [_without_loss(each) if each["step"] == 20 else each for each in lines])
    return read_history(run)


def _without_loss(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "eval_loss"}


@pytest.mark.parametrize(
    "expression",
    [
        "eval.loss[-1] < 9", "eval_loss[2] < 9", "last(eval.loss) < 9", "mean(eval.loss[-2:]) < 9",
        "eval.accuracy[-1] > 0 and eval.loss[-1] < 9", "not eval.loss[-1] > 9",
    ],
)  # fmt: skip
def test_an_evaluation_without_a_finite_value_is_not_replaced_by_an_earlier_one(
    diverged: RunHistory, expression: str
) -> None:
    with pytest.raises(UsageError, match=r"has no value in .*run: the evaluation has no finite number there"):
        check_assertion(diverged, expression)


def test_the_other_evaluations_keep_their_places(diverged: RunHistory) -> None:
    for expression in ("eval.loss[1] == 3.375", "first(eval.loss) == 3.5", "min(eval.loss) == 3.375"):
        assert check_assertion(diverged, expression).holds
    with pytest.raises(UsageError, match=r"eval\.loss has 3 values"):
        check_assertion(diverged, "eval.loss < 9")
    assert expression_value(diverged, "eval.loss") is None
    assert expression_value(diverged, "eval.loss[-1]") is None
    assert expression_value(diverged, "eval.accuracy") == 0.75
    assert expression_value(diverged, "min(eval.loss)") == 3.375


def test_a_run_with_an_evaluation_of_its_base_only_is_sorted_by_it(tmp_path: Path) -> None:
    history = read_history(write_recorded_run(tmp_path / "run", accuracies=(0.5,), status="interrupted"))
    assert expression_value(history, "eval.accuracy") == 0.5


def test_the_value_of_an_expression_for_sorting(history: RunHistory) -> None:
    assert expression_value(history, "eval.accuracy") == 0.75
    assert expression_value(history, "max(eval.loss)") == 3.5
    assert expression_value(history, "eval.accuracy[-1] - eval.accuracy[0]") == 0.25
    assert expression_value(history, "eval.acuracy") is None
    with pytest.raises(UsageError, match="it is a comparison"):
        expression_value(history, "eval.accuracy[-1] > 0.7")
