"""Remaining time of a training: with steps of any length, with evaluations and saves, and after a resume."""

from __future__ import annotations

import pytest

from orpo_cli.report.remaining_time import RemainingTime, clock_text, duration_text


class Clock:
    """A clock that moves only when a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def train(left: RemainingTime, clock: Clock, steps: list[float], first: int = 0) -> None:
    for number, seconds in enumerate(steps, first + 1):
        left.switch("step")
        clock.now += seconds
        left.step_done(number)


@pytest.mark.parametrize("seconds", [0.02, 2.0, 40.0, 600.0])
def test_steps_of_any_length_from_the_fifth_step_on(seconds: float) -> None:
    """The first step takes three times as long, and the others vary by a third."""
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 100, (), (), 0.0)
    assert left.seconds() is None
    lengths = [3 * seconds, *(seconds * (1 + (number % 3 - 1) / 3) for number in range(99))]
    for number, length in enumerate(lengths, 1):
        clock.now += length
        left.step_done(number)
        if 5 <= number <= 90:
            assert left.seconds() == pytest.approx(sum(lengths[number:]), rel=0.2, abs=0.01)


def test_the_time_runs_down_within_a_step_and_never_below_the_steps_that_follow() -> None:
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 10, (), (), 0.0)
    train(left, clock, [40.0] * 5)
    assert left.seconds() == pytest.approx(200)
    clock.now += 30
    assert left.seconds() == pytest.approx(170)
    clock.now += 300  # this step takes longer
    assert left.seconds() == pytest.approx(160)


def test_evaluations_and_saves_that_follow_are_counted_with_their_measured_time() -> None:
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 20, (5, 10, 15, 20), (10, 20), 0.5)
    train(left, clock, [10.0] * 5)
    assert left.seconds() == pytest.approx(15 * 10 + 4 * 5)  # an evaluation is expected to cost half a step
    left.switch("evaluation")
    clock.now += 20
    assert left.seconds() == pytest.approx(15 * 10 + 3 * 5, abs=0.1)  # it takes longer than expected
    clock.now += 10
    left.switch("step")
    assert left.seconds() == pytest.approx(15 * 10 + 3 * 30)
    train(left, clock, [10.0] * 5, first=5)
    left.switch("evaluation")
    clock.now += 30
    left.switch("save")
    clock.now += 8
    left.switch("step")
    assert left.seconds() == pytest.approx(10 * 10 + 2 * 30 + 8)
    train(left, clock, [10.0] * 10, first=10)
    left.switch("evaluation")
    assert left.seconds() == pytest.approx(30 + 8)


def test_the_evaluation_of_the_base_measures_those_that_follow() -> None:
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 20, (10, 20), (), 0.5)
    left.switch("evaluation")
    clock.now += 60
    train(left, clock, [10.0])
    assert left.seconds() == pytest.approx(19 * 10 + 2 * 60)


def test_a_pause_within_a_step_is_no_part_of_its_time() -> None:
    """The comparison of both paths, in the first step."""
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 3, (), (), 0.0)
    clock.now += 1
    left.switch("other")
    clock.now += 100
    left.switch("step")
    clock.now += 1
    left.step_done(1)
    assert left.seconds() == pytest.approx(2 * 2)


def test_a_resumed_run_counts_its_own_steps_only() -> None:
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(500, 1000, tuple(range(100, 1001, 100)), (), 1.0)
    clock.now += 40
    left.step_done(501)
    assert left.seconds() == pytest.approx(499 * 40 + 5 * 40)
    assert left.step == 501


def test_an_evaluation_that_is_left_out_is_not_waited_for() -> None:
    clock = Clock()
    left = RemainingTime(clock)
    left.begin(0, 10, (2, 4), (), 1.0)
    train(left, clock, [10.0] * 4)
    assert left.seconds() == pytest.approx(6 * 10 + 10)
    train(left, clock, [10.0], first=4)
    assert left.seconds() == pytest.approx(5 * 10)


@pytest.mark.parametrize(
    ("seconds", "text", "clock"),
    [
        (0.42, "0.42 s", "0:00:00"),
        (45.2, "45 s", "0:00:45"),
        (59.7, "1 min 00 s", "0:01:00"),
        (750, "12 min 30 s", "0:12:30"),
        (12_300, "3 h 25 min", "3:25:00"),
        (86_399, "1 d 0 h", "24:00:00"),
        (187_200, "2 d 4 h", "52:00:00"),
    ],
)
def test_durations_have_two_units(seconds: float, text: str, clock: str) -> None:
    assert duration_text(seconds) == text
    assert clock_text(seconds) == ("23:59:59" if seconds == 86_399 else clock)
