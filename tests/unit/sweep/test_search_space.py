"""Search space: the syntax of --grid and --range, combinations, and random values."""

from __future__ import annotations

import pytest

from orpo_cli.errors import UsageError
from orpo_cli.sweep.search_space import Choice, Range, parse_search_space


def values_of(*grids: str) -> list[tuple[object, ...]]:
    return [part.values for part in parse_search_space(grids, []).parts.values()]


def test_values_are_yaml() -> None:
    assert values_of("training.learning_rate=1e-5, 5e-5", "training.bf16=true,false", "lora.r=8") == [
        (1e-5, 5e-5),
        (True, False),
        (8,),
    ]
    assert values_of("training.lr_scheduler_type=linear,cosine") == [("linear", "cosine")]
    assert values_of("lora.target_modules=[q_proj,v_proj],all-linear") == [(["q_proj", "v_proj"], "all-linear")]
    assert values_of('model.model_name_or_path="a,b",c', "lora=null,{r: 8}") == [("a,b", "c"), (None, {"r": 8})]


def test_the_grid_has_all_combinations_and_the_last_key_changes_fastest() -> None:
    space = parse_search_space(["training.learning_rate=1e-5,5e-5", "training.beta=0.1,0.5"], [])
    assert [tuple(each.values()) for each in space.grid()] == [(1e-5, 0.1), (1e-5, 0.5), (5e-5, 0.1), (5e-5, 0.5)]


def test_ranges_have_integers_or_numbers_and_may_be_logarithmic() -> None:
    space = parse_search_space(
        [], ["lora.r=4..64:log", "training.beta=0.1..0.5", "training.learning_rate=1e-6..1e-4:log"]
    )
    assert list(space.parts.values()) == [Range(4, 64, True), Range(0.1, 0.5, False), Range(1e-6, 1e-4, True)]
    drawn = space.sample(200, seed=1)
    assert {type(each["lora.r"]) for each in drawn} == {int}
    assert all(4 <= each["lora.r"] <= 64 and 0.1 <= each["training.beta"] <= 0.5 for each in drawn)
    below = sum(each["training.learning_rate"] < 1e-5 for each in drawn)
    assert 75 < below < 125  # half of the logarithms; without :log it would be a tenth
    assert all(float(f"{each['training.beta']:.3g}") == each["training.beta"] for each in drawn)


def test_random_values_are_reproducible_and_a_longer_sample_begins_with_the_shorter_one() -> None:
    space = parse_search_space(["lora.r=8,16"], ["training.beta=0.1..1"])
    assert space.sample(20, seed=7)[:5] == space.sample(5, seed=7)
    assert space.sample(5, seed=7) != space.sample(5, seed=8)


def test_a_combination_is_drawn_once() -> None:
    space = parse_search_space(["lora.r=8,16", "training.beta=0.1,0.5"], [])
    drawn = space.sample(10, seed=0)
    assert len(drawn) == 4
    assert sorted(map(str, drawn)) == sorted(map(str, space.grid()))


def test_drawing_ends_where_all_combinations_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[float] = []

    def draw(choice: Choice, position: float) -> object:
        draws.append(position)
        return choice.values[int(2 * position)]

    monkeypatch.setattr(Choice, "draw", draw)
    space = parse_search_space(["lora.r=8,16"], [])
    assert len(space.sample(100, seed=0)) == 2
    assert len(draws) < 11_000


def test_both_ends_of_a_range_are_drawn() -> None:
    assert (Range(1, 3, False).draw(0.0), Range(1, 3, False).draw(1.0)) == (1, 3)
    assert (Range(1e-6, 1e-4, True).draw(0.0), Range(1e-6, 1e-4, True).draw(1.0)) == (1e-6, 1e-4)
    assert (Choice(("a", "b")).draw(0.49), Choice(("a", "b")).draw(1.0)) == ("a", "b")


@pytest.mark.parametrize(
    ("grids", "ranges", "part"),
    [
        (["training.beta"], [], "--grid training.beta: must be of the form KEY=VALUE,VALUE"),
        (["=1,2"], [], "--grid =1,2: must be of the form"),
        (["training.beta="], [], "--grid training.beta=: must be of the form"),
        (["training.beta=0.1,0.1"], [], "--grid training.beta=0.1,0.1: 0.1 is given twice"),
        (["training.beta=0.1", "training.beta=0.2"], [], "--grid training.beta=0.2: training.beta is given twice"),
        (["training.beta=0.1"], ["training.beta=0.1..1"], "--range training.beta=0.1..1: training.beta is given twice"),
        (["training.beta=[0.1"], [], "--grid training.beta=[0.1: must be values with commas"),
        (["output_dir=a,b"], [], "--grid output_dir=a,b: output_dir cannot be varied"),
        (["name=a,b"], [], "name cannot be varied"),
        (["extends=a,b"], [], "extends cannot be varied"),
        ([], ["training.beta=0.1"], "--range training.beta=0.1: must be of the form KEY=LOW..HIGH"),
        ([], ["training.beta=low..high"], "with two numbers"),
        ([], ["training.beta=0.5..0.1"], "the first number must be below the second"),
        ([], ["training.weight_decay=0..1:log"], "a range with :log must be above 0"),
    ],
)
def test_errors_name_the_option(grids: list[str], ranges: list[str], part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_search_space(grids, ranges)
    assert part in str(caught.value)
