"""Duplicates, leaked prompts, splits and weights of several sources; streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of
from support.prepared_rows import write_source
from support.tiny import pairs

from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.errors import DataError, MachineError
from orpo_cli.recipe.schema import DatasetSection


def run(dataset: dict[str, Any], pairs_needed: int | None = None) -> PreparedData:
    section = DatasetSection.model_validate(dataset)
    return prepare(
        section,
        tokenizer_of("chatml"),
        max_length=192,
        max_prompt_length=96,
        note=lambda _: None,
        pairs_needed=pairs_needed,
    )


def ask(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}


def names(data: Any) -> list[str]:
    return list(data["row"][:])


def test_duplicates_are_dropped_across_sources(tmp_path: Path) -> None:
    first = write_source(tmp_path / "a.jsonl", [ask("one"), ask("two"), ask("one")])
    second = write_source(tmp_path / "b.jsonl", [ask("two"), ask("three"), ask("one", chosen="sure")])
    report = run({"train": [first, second]}).report
    assert [(source.kept, dict(source.dropped)) for source in report.sources] == [
        (2, {"duplicate": 1}),
        (2, {"duplicate": 1}),
    ]
    assert report.sources[0].examples["duplicate"] == ["a.jsonl:3 (as a.jsonl:1)"]
    assert report.sources[1].examples["duplicate"] == ["b.jsonl:1 (as a.jsonl:2)"]
    assert names(run({"train": [first, second]}).train) == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:2", "b.jsonl:3"]
    assert run({"train": [first, second], "rules": {"duplicate": False}}).report.kept == 6


def test_duplicate_prompts_are_dropped_by_an_option(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.jsonl", [ask("One  more?"), ask("one more?", chosen="sure"), ask("two")])
    assert run({"train": source}).report.kept == 3
    report = run({"train": source, "rules": {"duplicate_prompt": True}}).report
    assert report.dropped == {"duplicate_prompt": 1}
    assert report.sources[0].examples["duplicate_prompt"] == ["a.jsonl:2 (as a.jsonl:1)"]


def test_rules_are_switched_off_by_name(tmp_path: Path) -> None:
    rows = [ask("one", chosen=""), ask("two", rejected=" "), ask("three", chosen="no"), ask("four")]
    source = write_source(tmp_path / "a.jsonl", rows)
    assert run({"train": source}).report.dropped == {"empty_chosen": 1, "empty_rejected": 1, "identical": 1}
    for rule in ("empty_chosen", "empty_rejected", "identical"):
        report = run({"train": source, "rules": {rule: False}}).report
        assert report.kept == 2
        assert rule not in report.dropped


def test_leaked_prompts_are_reported_and_dropped_by_an_option(tmp_path: Path) -> None:
    train = write_source(tmp_path / "train.jsonl", [ask("one"), ask("TWO ", chosen="sure"), ask("three")])
    dataset = {"train": train, "eval": write_source(tmp_path / "eval.jsonl", [ask("two"), ask("four")])}
    leaking = run(dataset)
    assert len(leaking.train) == 3
    assert leaking.report.leaked == {"pairs": 1, "examples": ["train.jsonl:2"], "left_out": False}
    assert any(
        "leakage: the prompts of 1 train pairs occur in eval: train.jsonl:2" in line for line in leaking.report.lines()
    )
    no_leak = run({**dataset, "eval": write_source(tmp_path / "other.jsonl", [ask("five")])}).report
    assert "no leakage: no eval prompt occurs in train" in no_leak.lines()
    without_leaked = run({**dataset, "rules": {"leaked": True}})
    assert names(without_leaked.train) == ["train.jsonl:1", "train.jsonl:3"]
    assert without_leaked.report.dropped == {"leaked": 1}
    assert any("leaked" in line and "train.jsonl:2" in line for line in without_leaked.report.lines())
    with pytest.raises(DataError, match="the prompt of every train pair"):
        run({"train": train, "eval": train, "rules": {"leaked": True}})


def test_leakage_of_a_split_is_reported(tmp_path: Path) -> None:
    rows = [ask(f"q{n // 2}", chosen=f"yes {n}") for n in range(40)]
    dataset = {"train": write_source(tmp_path / "x.jsonl", rows), "eval": {"test_size": 10}}
    prepared = run(dataset)
    prompts = [
        [json.loads(row["prompt_json"])[0]["content"] for row in part] for part in (prepared.train, prepared.eval)
    ]
    both = sum(prompt in prompts[1] for prompt in prompts[0])
    assert both > 0
    assert prepared.report.leaked["pairs"] == both


def test_a_weight_repeats_pairs(tmp_path: Path) -> None:
    half = {**write_source(tmp_path / "a.jsonl", pairs(40)), "weight": 0.5}
    twice = {**write_source(tmp_path / "b.jsonl", [ask(f"q{n}") for n in range(10)]), "weight": 2.3}
    once = write_source(tmp_path / "c.jsonl", [ask(f"r{n}") for n in range(5)])
    prepared = run({"train": [half, twice, once]})
    counts = {name: names(prepared.train).count(name) for name in names(prepared.train)}
    assert sum(name.startswith("a.") for name in counts) == 20
    assert {count for name, count in counts.items() if name.startswith("a.")} == {1}
    assert sorted(count for name, count in counts.items() if name.startswith("b.")) == [2] * 7 + [3] * 3
    assert [count for name, count in counts.items() if name.startswith("c.")] == [1] * 5
    assert [source.used for source in prepared.report.sources] == [20, 23, 5]
    assert prepared.report.train_pairs == len(prepared.train) == 48
    assert names(run({"train": [half, twice, once]}).train) == names(prepared.train)
    assert names(run({"train": [half, twice, once], "shuffle_seed": 3}).train) != names(prepared.train)


def test_weights_that_leave_no_pair_are_an_error(tmp_path: Path) -> None:
    few = {**write_source(tmp_path / "a.jsonl", pairs(4)), "weight": 0.01}
    with pytest.raises(DataError, match="the weights leave none of its 4 pairs") as caught:
        run({"train": few})
    assert "dataset.train.weight" in str(caught.value.remedy)


def test_the_split_comes_before_the_weights(tmp_path: Path) -> None:
    train = {**write_source(tmp_path / "a.jsonl", [ask(f"q{n}") for n in range(20)]), "weight": 3}
    prepared = run({"train": train, "eval": {"test_size": 5}})
    assert prepared.eval is not None
    assert len(prepared.eval) == 5
    assert len(prepared.train) == 45
    assert not set(names(prepared.train)) & set(names(prepared.eval))


def test_a_stream_is_read_until_training_has_enough_pairs(tmp_path: Path) -> None:
    good = [json.dumps(ask(f"q{n}")) for n in range(2000)]
    (tmp_path / "x.jsonl").write_text("\n".join([*good, "this is not JSON"]))
    source = {"path": str(tmp_path / "x.jsonl"), "streaming": True}
    prepared = run({"train": source}, pairs_needed=600)
    assert 600 <= len(prepared.train) < 1200
    assert names(prepared.train)[:2] == ["x.jsonl:1", "x.jsonl:2"]
    assert len(run({"train": {**source, "max_samples": 7}}, pairs_needed=600).train) == 7
    with pytest.raises(DataError, match="2001"):
        run({"train": source}, pairs_needed=5000)
    with pytest.raises(DataError, match="has no split"):
        run({"train": {**source, "split": "train[:5]"}}, pairs_needed=5)


@pytest.mark.parametrize("needed", [1, 64, 65, 600])
def test_every_row_that_a_stream_has_read_is_kept_or_dropped(tmp_path: Path, needed: int) -> None:
    rows = [ask(f"q{n}") if n % 3 else {**ask(f"q{n}"), "chosen": ""} for n in range(2000)]
    source = {**write_source(tmp_path / "x.jsonl", rows), "streaming": True}
    (report,) = run({"train": source}, pairs_needed=needed).report.sources
    assert report.rows_read == report.kept + sum(report.dropped.values())
    assert needed <= report.kept < needed + 64


def test_streams_give_pairs_by_weight(tmp_path: Path) -> None:
    sources = [
        {
            **write_source(tmp_path / f"{name}.jsonl", [ask(f"{name}{n}") for n in range(4000)]),
            "streaming": True,
            "weight": weight,
        }
        for name, weight in (("a", 3.0), ("b", 1.0))
    ]
    report = run({"train": sources}, pairs_needed=4000).report
    assert report.sources[0].kept in range(3000, 3513)
    assert report.sources[1].kept in range(1000, 1513)


def test_a_pattern_matches_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/1.jsonl"):
        (tmp_path / name).parent.mkdir()
        write_source(tmp_path / name, [ask(name)])
    (tmp_path / "a" / "notes.txt").write_text("no data")
    prepared = run({"train": {"path": str(tmp_path / "**" / "*")}})
    assert names(prepared.train) == ["a/1.jsonl:1", "b/2.jsonl:1"]
    with pytest.raises(DataError, match=r"no data file matches \(1 other paths match\)"):
        run({"train": {"path": str(tmp_path / "*" / "*.txt")}})


def test_fsspec_storage_gives_files_folders_and_patterns(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("pairs/b/2.jsonl", "pairs/a/1.jsonl"):
        with store.open(f"/{name}", "w") as file:
            file.write(json.dumps(ask(name)) + "\n")
    try:
        assert names(run({"train": {"path": "memory://pairs/a/1.jsonl"}}).train) == ["1.jsonl:1"]
        folder = names(run({"train": {"path": "memory://pairs"}}).train)
        assert folder == ["memory://pairs/a/1.jsonl:1", "memory://pairs/b/2.jsonl:1"]
        assert len(run({"train": {"path": "memory://pairs/*/2.jsonl"}}).train) == 1
        with pytest.raises(DataError, match=r"memory://pairs/c\.jsonl: no such file"):
            run({"train": {"path": "memory://pairs/c.jsonl"}})
        with store.open("/pairs/bad.jsonl", "w") as file:
            file.write(json.dumps(ask("one")) + "\nnot JSON\n")
        with pytest.raises(DataError, match=r"memory://pairs/bad\.jsonl") as caught:
            run({"train": {"path": "memory://pairs/bad.jsonl"}})
        assert "/tmp" not in caught.value.message
    finally:
        store.rm("/pairs", recursive=True)


def test_a_missing_storage_package_is_named() -> None:
    with pytest.raises(MachineError) as caught:
        run({"train": {"path": "gs://bucket/x.jsonl"}})
    assert caught.value.remedy == "pip install gcsfs"
    with pytest.raises(DataError, match="fsspec does not know wizard://"):
        run({"train": {"path": "wizard://bucket/x.jsonl"}})


def test_zstd_files_are_read_and_damage_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa

    text = "".join(json.dumps(ask(f"q{n} {'word ' * (n % 7)}")) + "\n" for n in range(500)).encode()
    path = tmp_path / "x.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as packed:
        packed.write(text)
    assert len(run({"train": {"path": str(path)}}).train) == 500
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"x\.jsonl\.zst: the zstd file is truncated or damaged after row \d+"):
        run({"train": {"path": str(path)}})


def test_weights_apply_to_train_sources_only(tmp_path: Path) -> None:
    once = write_source(tmp_path / "a.jsonl", [ask(f"q{n}") for n in range(6)])
    twice = {**write_source(tmp_path / "b.jsonl", [ask(f"r{n}") for n in range(4)]), "weight": 2}
    held = [write_source(tmp_path / f"{name}.jsonl", [ask(f"{name}{n}") for n in range(2)]) for name in ("e", "f", "g")]
    prepared = run({"train": [once, twice], "eval": held})
    assert names(prepared.train) == [f"a.jsonl:{n}" for n in range(1, 7)] + [
        f"b.jsonl:{n}" for n in range(1, 5) for _ in range(2)
    ]
    assert [source.used for source in prepared.report.sources] == [6, 8, None, None, None]


def test_leaked_prompts_are_dropped_from_every_source(tmp_path: Path) -> None:
    first = write_source(tmp_path / "a.jsonl", [ask("one"), ask("two"), ask("three")])
    second = write_source(tmp_path / "b.jsonl", [ask("four"), ask("five"), ask("two", chosen="sure")])
    held = write_source(tmp_path / "e.jsonl", [ask("two"), ask("five")])
    report = run({"train": [first, second], "eval": held, "rules": {"leaked": True}}).report
    assert [(source.kept, dict(source.dropped)) for source in report.sources] == [
        (2, {"leaked": 1}),
        (1, {"leaked": 2}),
        (2, {}),
    ]
    assert [source.examples.get("leaked") for source in report.sources] == [
        ["a.jsonl:2"],
        ["b.jsonl:2", "b.jsonl:3"],
        None,
    ]
    assert any("b.jsonl:3" in line for line in report.lines())
