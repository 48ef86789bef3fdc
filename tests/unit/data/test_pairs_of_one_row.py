"""Several pairs of one row in the prepared data: names, counts, token ids, held-out pairs and cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pair_rows import IDS, SEVERAL_REJECTED, TWO_TURN_ROWS, assistant, user
from support.prepared_rows import prepare_rows

from orpo_cli.data.turns import row_of_pair
from orpo_cli.errors import DataError


def test_a_long_conversation_is_rendered_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orpo_cli.data import source_reader

    monkeypatch.setattr(source_reader, "BATCH_PAIRS", 3)
    messages = [
        each
        for number in range(10)
        for each in (user(f"q{number}"), assistant(f"good {number}", rejected=[f"bad {number}", f"worse {number}"]))
    ]
    prepared = prepare_rows(
        tmp_path / "x.jsonl",
        [{"messages": messages}, {"messages": messages[:2]}],
        turns="all",
        rejected="all",
    )
    assert prepared.report.kept == 20
    assert prepared.report.dropped == {"duplicate": 2}
    assert prepared.train["row"][:] == [f"x.jsonl:1#{number}" for number in range(1, 21)]


ROWS = [
    {"prompt": [user("one")], "chosen": "good", "rejected": ["bad 1", "bad 2", "bad 1", "good", ""]},
    {"prompt": [user("two")], "chosen": "good", "rejected": ["bad 1"]},
    {"prompt": [user("three")], "chosen": "good", "rejected": 3},
]


def test_rows_pairs_and_drops_add_up(tmp_path: Path) -> None:
    for rejected, kept, drops in (("all", 3, 4), ("first", 2, 1), ("random", 2, 1)):
        report = prepare_rows(tmp_path / "x.jsonl", ROWS, rejected=rejected, shuffle_seed=4).report.sources[0]
        assert report.rows_read == 3
        assert report.rows_read + report.notes["pairs_of_rejected"] == report.kept + report.dropped.total()
        assert report.kept + report.dropped.total() == (7 if rejected == "all" else 3)
        if rejected == "all":
            assert (report.kept, report.dropped.total()) == (kept, drops)
            assert report.dropped == {"duplicate": 1, "identical": 1, "empty_rejected": 1, "malformed": 1}
            assert report.examples["duplicate"] == ["x.jsonl:1#3 (as x.jsonl:1#1)"]
            assert "  4 more pairs from rows with several rejected answers" in report.lines()
        else:
            assert any("4 further rejected answers are not used" in line for line in report.lines())


def test_rows_with_one_pair_keep_their_name(tmp_path: Path) -> None:
    names = prepare_rows(tmp_path / "x.jsonl", ROWS, rejected="all").train["row"][:]
    assert names == ["x.jsonl:1#1", "x.jsonl:1#2", "x.jsonl:2"]
    assert [row_of_pair(name) for name in names] == ["x.jsonl:1", "x.jsonl:1", "x.jsonl:2"]
    assert row_of_pair("a#1.jsonl:3") == "a#1.jsonl:3"


def test_the_tokens_of_a_turn_are_those_of_the_same_pair_in_a_row(tmp_path: Path) -> None:
    alone = [
        {"prompt": [user("one")], "chosen": "good 1", "rejected": "bad 1"},
        {"prompt": [user("one"), assistant("good 1"), user("two")], "chosen": "good 2", "rejected": "bad 2"},
    ]
    expected = prepare_rows(tmp_path / "alone.jsonl", alone).train
    for shape in TWO_TURN_ROWS:
        prepared = prepare_rows(tmp_path / "x.jsonl", [TWO_TURN_ROWS[shape]], turns="all")
        for column in IDS:
            assert prepared.train[column][:] == expected[column][:], shape
        assert prepared.report.sources[0].unused_columns == []


@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_of_a_row_are_not_split_between_train_and_eval(tmp_path: Path, seed: int) -> None:
    rows = [
        {"prompt": [user(f"question {n}")], "chosen": "good", "rejected": [f"bad {k}" for k in range(1 + n % 5)]}
        for n in range(30)
    ]
    for size in (1, 7, 0.3):
        prepared = prepare_rows(tmp_path / "x.jsonl", rows, rejected="all", eval={"test_size": size}, shuffle_seed=seed)
        assert prepared.eval is not None
        parts = [prepared.train["row"][:], prepared.eval["row"][:]]
        assert len(parts[0]) + len(parts[1]) == 90
        wanted = size if isinstance(size, int) else 27
        assert wanted <= len(parts[1]) < wanted + 5
        assert not {row_of_pair(name) for name in parts[0]} & {row_of_pair(name) for name in parts[1]}
        assert prepared.report.leaked["pairs"] == 0
    with pytest.raises(DataError, match="leaves none to train on") as caught:
        prepare_rows(tmp_path / "x.jsonl", rows[4:5], rejected="all", eval={"test_size": 1})
    assert "pairs of one row are not split" in str(caught.value.remedy)


def test_the_rule_of_equal_prompts_compares_rows(tmp_path: Path) -> None:
    rows = [
        {"prompt": [user("one")], "chosen": "good", "rejected": ["bad 1", "bad 2"]},
        {"prompt": [user("ONE")], "chosen": "good", "rejected": ["bad 3", "bad 4"]},
    ]
    prepared = prepare_rows(tmp_path / "x.jsonl", rows, rejected="all", rules={"duplicate_prompt": True})
    assert prepared.train["row"][:] == ["x.jsonl:1#1", "x.jsonl:1#2"]
    assert prepared.report.dropped == {"duplicate_prompt": 2}


def test_the_settings_change_the_pairs_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    rows = [TWO_TURN_ROWS["messages with a rejected text"]]
    counts = [len(prepare_rows(tmp_path / "x.jsonl", rows, turns=turns).train) for turns in ("last", "all", "last")]
    assert counts == [1, 2, 1]
    rows = [SEVERAL_REJECTED["texts"]]
    drawn = [
        prepare_rows(tmp_path / "y.jsonl", rows, rejected=choice).train["rejected_text"][:]
        for choice in ("first", "worst", "all")
    ]
    assert drawn == [["bad 1"], ["bad 2"], ["bad 1", "bad 2", "bad 3"]]
