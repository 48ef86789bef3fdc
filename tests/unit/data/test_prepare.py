"""Data preparation: columns, order, several sources, lengths, fingerprints, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.data_tokenizers import byte_level, tokenizer_of
from support.prepared_rows import preparation_error, prepare_dataset, text_pair, write_source
from support.tiny import pairs, tiny_tokenizer

from orpo_cli.data.prepare import PreparedData
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import UsageError


def test_columns_are_those_that_the_trainer_reads(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatml")
    prepared: PreparedData = prepare_dataset({"train": write_source(tmp_path / "train.jsonl", pairs(5))})
    assert prepared.eval is None
    for number, row in enumerate(map(expand_pair, prepared.train)):
        prompt, source = row["prompt_input_ids"], pairs(5)[number]
        assert (row["pair"], row["row"]) == (number, f"train.jsonl:{number + 1}")
        assert json.loads(row["prompt_json"]) == source["prompt"]
        assert row["prompt_attention_mask"] == [1] * len(prompt)
        for name in ("chosen", "rejected"):
            ids, answer = row[f"{name}_input_ids"], source[name][0]["content"]  # type: ignore[index]
            assert ids[: len(prompt)] == prompt
            assert tokenizer.decode(ids[len(prompt) :]) == answer + "<|im_end|>"
            assert row[f"{name}_labels"] == [-100] * len(prompt) + ids[len(prompt) :]
            assert row[f"{name}_attention_mask"] == [1] * len(ids)
            assert row[f"{name}_text"] == answer
        assert row["length"] == max(len(row["chosen_input_ids"]), len(row["rejected_input_ids"]))


def test_more_pairs_than_one_batch_keep_their_order(tmp_path: Path) -> None:
    prepared = prepare_dataset({"train": write_source(tmp_path / "x.jsonl", pairs(1200))})
    assert prepared.train["pair"][:] == list(range(1200))
    assert prepared.train["chosen_text"][:] == [row["chosen"][0]["content"] for row in pairs(1200)]  # type: ignore[index]


def test_pairs_are_written_in_large_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from orpo_cli.data import pair_writer

    train = write_source(tmp_path / "x.jsonl", pairs(1000))
    sizes = {}
    for together in (1 << 25, 100_000):
        monkeypatch.setattr(pair_writer, "WRITE_BATCH_BYTES", together)
        monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
        monkeypatch.setenv("ORPO_CACHE", str(tmp_path / str(together)))
        assert prepare_dataset({"train": train}).train["row"][:] == [f"x.jsonl:{n}" for n in range(1, 1001)]
        (file,) = (tmp_path / str(together)).rglob("pairs.arrow")
        with pa.memory_map(str(file)) as source:
            sizes[together] = [len(batch) for batch in pa.ipc.open_stream(source)]
    assert sizes[1 << 25] == [1000]
    assert sum(sizes[100_000]) == 1000
    assert len(sizes[100_000]) > 1


def test_a_message_that_spells_a_special_token_is_trained_on_as_text_and_counted(tmp_path: Path) -> None:
    row = {**pairs(1)[0], "prompt": [{"role": "user", "content": "What is <|im_start|>?"}]}
    prepared = prepare_dataset({"train": write_source(tmp_path / "x.jsonl", [row, *pairs(3)])})
    assert prepared.report.sources[0].notes == {"special_token_spelled": 1}
    tokenizer = tokenizer_of("chatml")
    ids = prepared.train[0]["prompt_input_ids"]
    assert "What is <|im_start|>?" in tokenizer.decode(ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_conversations_without_a_chat_template_are_a_usage_error(tmp_path: Path) -> None:
    error = preparation_error(
        {"train": write_source(tmp_path / "x.jsonl", pairs(3))}, tokenizer=byte_level(["<s>", "</s>"], None)
    )
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "chatml" in str(error.remedy)


def test_wrong_column_mappings_are_errors(tmp_path: Path) -> None:
    rows = [{"q": "Why?", "good": f" So {n}.", "bad": " No."} for n in range(3)]
    source = write_source(tmp_path / "x.jsonl", rows)
    mapped = {**source, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    assert prepare_dataset({"train": mapped}).train["chosen_text"][:] == ["So 0.", "So 1.", "So 2."]
    missing = preparation_error({"train": {**source, "columns": {"chosen": "best"}}})
    assert "no best" in missing.message
    assert "q, good, bad" in str(missing.remedy)


def test_sources_are_concatenated_in_order_with_distinct_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (
        write_source(tmp_path / "a" / "x.jsonl", pairs(2)),
        write_source(tmp_path / "b" / "x.jsonl", pairs(2, start=5)),
    )
    third = write_source(tmp_path / "y.jsonl", [text_pair(source="z")])
    prepared = prepare_dataset({"train": [first, second, third]})
    assert prepared.train["row"][:] == [
        *(f"{source['path']}:{number}" for source in (first, second) for number in (1, 2)),
        "y.jsonl:1",
    ]
    assert [source.rows_read for source in prepared.report.sources] == [2, 2, 1]
    assert prepared.report.sources[2].unused_columns == ["source"]
    assert "  unused columns: source" in prepared.report.lines()


def test_max_samples_is_reported(tmp_path: Path) -> None:
    report = prepare_dataset({"train": {**write_source(tmp_path / "x.jsonl", pairs(50)), "max_samples": 7}}).report
    assert (report.sources[0].available, report.rows_read, report.kept) == (50, 7, 7)
    assert "7 of 50 rows read (drawn at random, max_samples), " in report.lines()[0]


def test_fingerprints_depend_on_the_token_ids(tmp_path: Path) -> None:
    dataset = {"train": write_source(tmp_path / "x.jsonl", pairs(20))}
    first = prepare_dataset(dataset).report
    assert prepare_dataset(dataset).report.fingerprints == first.fingerprints
    assert prepare_dataset(dataset, max_length=40, max_prompt_length=20).report.fingerprints != first.fingerprints
    write_source(tmp_path / "x.jsonl", pairs(19) + pairs(1, start=50))
    assert prepare_dataset(dataset).report.fingerprints != first.fingerprints


def test_length_statistics_are_those_of_the_kept_tokens(tmp_path: Path) -> None:
    prepared = prepare_dataset({"train": write_source(tmp_path / "x.jsonl", pairs(40))})
    lengths = sorted(len(ids) for ids in prepared.train["prompt_input_ids"][:])
    figures = prepared.report.lengths["train"]["prompt"]
    assert figures == {
        "mean": round(sum(lengths) / 40, 1), "p50": lengths[19], "p95": lengths[37], "max": lengths[-1],
    }  # fmt: skip


def test_nothing_is_written_to_the_data_folder(tmp_path: Path) -> None:
    prepare_dataset({"train": write_source(tmp_path / "x.jsonl", pairs(30)), "eval": {"test_size": 3}})
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_real_sharegpt_pairs_are_all_kept(real_data: Path) -> None:
    report = prepare_dataset(
        {"train": {"path": str(real_data / "sharegpt_pairs_en.json")}}, tokenizer=tiny_tokenizer()
    ).report
    assert report.sources[0].format == "sharegpt"
    assert report.rows_read == 300
    assert set(report.dropped) <= {"identical_when_cut", "duplicate"}
    assert report.sources[0].truncated_prompts > 0
