"""Data preparation: columns, drops, lengths, held-out pairs, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import byte_level, tokenizer_of
from support.tiny import pairs, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from orpo_cli.data.filters import REASONS
from orpo_cli.data.prepare import PreparedData, PreparedEval, prepare, prepare_eval
from orpo_cli.data.table import expand_pair
from orpo_cli.errors import DataError, OrpoError, UsageError
from orpo_cli.recipe.schema import DatasetSection

Run = Callable[..., Any]


def run(
    dataset: dict[str, Any], call: Run = prepare, tokenizer: PreTrainedTokenizerFast | None = None, **lengths: int
) -> Any:
    section = DatasetSection.model_validate(dataset)
    limits = {"max_length": 192, "max_prompt_length": 96, **lengths}
    return call(section, tokenizer or tokenizer_of("chatml"), note=lambda _: None, **limits)


def failure(dataset: dict[str, Any], **options: Any) -> OrpoError:
    with pytest.raises(OrpoError) as caught:
        run(dataset, **options)
    return caught.value


def write(path: Path, rows: list[Any]) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def text_pair(**changes: Any) -> dict[str, Any]:
    return {"prompt": "What is water?", "chosen": " Wet.", "rejected": " Hard to say.", **changes}


def test_columns_are_those_that_the_trainer_reads(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("chatml")
    prepared: PreparedData = run({"train": write(tmp_path / "train.jsonl", pairs(5))})
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
    prepared = run({"train": write(tmp_path / "x.jsonl", pairs(1200))})
    assert prepared.train["pair"][:] == list(range(1200))
    assert prepared.train["chosen_text"][:] == [row["chosen"][0]["content"] for row in pairs(1200)]  # type: ignore[index]


def test_pairs_are_written_in_large_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from orpo_cli.data import pair_writer

    train = write(tmp_path / "x.jsonl", pairs(1000))
    sizes = {}
    for together in (1 << 25, 100_000):
        monkeypatch.setattr(pair_writer, "WRITE_BATCH_BYTES", together)
        monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
        monkeypatch.setenv("ORPO_CACHE", str(tmp_path / str(together)))
        assert run({"train": train}).train["row"][:] == [f"x.jsonl:{n}" for n in range(1, 1001)]
        (file,) = (tmp_path / str(together)).rglob("pairs.arrow")
        with pa.memory_map(str(file)) as source:
            sizes[together] = [len(batch) for batch in pa.ipc.open_stream(source)]
    assert sizes[1 << 25] == [1000]
    assert sum(sizes[100_000]) == 1000
    assert len(sizes[100_000]) > 1


def test_every_drop_is_counted_under_its_reason_with_its_row(tmp_path: Path) -> None:
    conversation = pairs(1)[0]
    other = [{"role": "user", "content": "Other?"}]
    cases: list[tuple[str, Any]] = [
        ("malformed", ["not", "a", "row"]),
        ("malformed", text_pair(chosen=3)),
        ("empty_prompt", text_pair(prompt="")),
        ("empty_chosen", text_pair(chosen=" \n")),
        ("empty_rejected", text_pair(rejected="")),
        ("identical", text_pair(rejected=" Wet. ")),
        (
            "histories_differ",
            {"chosen": other + conversation["chosen"], "rejected": pairs(2)[1]["prompt"] + conversation["rejected"]},
        ),  # type: ignore[operator]
        ("goes_on_after_end", text_pair(chosen=" Wet.<|im_end|> And cold.")),
        ("prompt_too_long", text_pair(prompt="word " * 100)),
        ("identical_when_cut", text_pair(chosen=" x" * 300 + "a", rejected=" x" * 300 + "b")),
    ]
    rows = [row for _, row in cases] + [text_pair()]
    report = run({"train": write(tmp_path / "x.jsonl", rows), "truncation_mode": "drop"}).report.as_dict()
    source = report["sources"][0]
    assert report["kept"] == source["kept"] == 1
    assert report["rows_read"] == len(rows)
    assert report["dropped"] == {**dict.fromkeys((reason for reason, _ in cases), 1), "malformed": 2}
    for number, (reason, _) in enumerate(cases, 1):
        assert any(example.startswith(f"x.jsonl:{number}") for example in source["examples"][reason])
    assert report["reasons"] == {reason: REASONS[reason] for reason in report["dropped"]}
    assert json.loads(json.dumps(report)) == report


def test_a_prompt_that_fills_max_length_is_dropped(tmp_path: Path) -> None:
    train = write(tmp_path / "x.jsonl", [text_pair(prompt="word " * 200), text_pair()])
    report = run({"train": train}, max_length=64, max_prompt_length=64).report
    assert report.dropped == {"no_room": 1}


def test_a_template_that_refuses_a_conversation_drops_it(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
        tiny_tokenizer().chat_template or ""
    )
    tokenizer = byte_level(["<s>", "</s>", "<|im_start|>", "<|im_end|>"], template)
    refused = {**pairs(1)[0], "prompt": [{"role": "system", "content": "x"}, *pairs(1)[0]["prompt"]]}  # type: ignore[misc]
    report = run({"train": write(tmp_path / "x.jsonl", [refused, *pairs(3)])}, tokenizer=tokenizer).report
    assert report.dropped == {"template_error": 1}
    assert report.sources[0].examples == {"template_error": ["x.jsonl:1 (line 1: no system)"]}


def test_no_more_than_three_examples_of_a_reason_are_named(tmp_path: Path) -> None:
    rows = [text_pair(chosen="") for _ in range(9)] + [text_pair()]
    report = run({"train": write(tmp_path / "x.jsonl", rows)}).report
    assert report.sources[0].examples["empty_chosen"] == ["x.jsonl:1", "x.jsonl:2", "x.jsonl:3"]
    assert any("9 empty_chosen" in line and "x.jsonl:2" in line for line in report.lines())


def test_long_prompts_and_answers_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [text_pair(prompt="start " + "word " * 200 + "end"), text_pair(chosen=" so" * 300), text_pair()]
    train = {**write(tmp_path / "x.jsonl", rows), "format": "text"}
    tokenizer = tokenizer_of("chatml")
    prepared = run({"train": train}, max_length=80, max_prompt_length=40)
    assert prepared.report.sources[0].truncated_prompts == 1
    assert prepared.report.sources[0].truncated_completions == 1
    assert len(prepared.train[0]["prompt_input_ids"]) == 40
    assert tokenizer.decode(prepared.train[0]["prompt_input_ids"]).endswith("word end")
    assert len(expand_pair(prepared.train[1])["chosen_input_ids"]) == 80
    assert prepared.train[1]["chosen_answer_ids"][-1] != tokenizer.eos_token_id
    assert prepared.train[1]["rejected_answer_ids"][-1] == tokenizer.eos_token_id
    start = run({"train": train, "truncation_mode": "keep_start"}, max_length=80, max_prompt_length=40).train[0]
    assert tokenizer.decode(start["prompt_input_ids"]).startswith("start word")


def test_pairs_with_a_cut_answer_can_be_left_out(tmp_path: Path) -> None:
    train = write(tmp_path / "x.jsonl", [text_pair(chosen=" so" * 300), text_pair()])
    report = run({"train": train, "drop_truncated": True}, max_length=80, max_prompt_length=40).report
    assert report.dropped == {"answer_too_long": 1}
    assert report.sources[0].truncated_completions == 0
    assert run({"train": train}, max_length=80, max_prompt_length=40).report.kept == 2


def test_a_message_that_spells_a_special_token_is_trained_on_as_text_and_counted(tmp_path: Path) -> None:
    row = {**pairs(1)[0], "prompt": [{"role": "user", "content": "What is <|im_start|>?"}]}
    prepared = run({"train": write(tmp_path / "x.jsonl", [row, *pairs(3)])})
    assert prepared.report.sources[0].notes == {"special_token_spelled": 1}
    tokenizer = tokenizer_of("chatml")
    ids = prepared.train[0]["prompt_input_ids"]
    assert "What is <|im_start|>?" in tokenizer.decode(ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


def test_nothing_left_lists_the_drops_and_what_to_do(tmp_path: Path) -> None:
    rows = [text_pair(prompt="word " * 200), text_pair(chosen="")]
    error = failure({"train": write(tmp_path / "x.jsonl", rows), "truncation_mode": "drop"})
    assert error.exit_code == 4
    assert "no usable train pair is left of 2 rows" in error.message
    assert "1 empty_chosen" in error.message
    assert "x.jsonl:2" in error.message
    assert "Raise training.max_length" in str(error.remedy)
    good = write(tmp_path / "good.jsonl", pairs(3))
    error = failure({"train": good, "eval": write(tmp_path / "bad.jsonl", [text_pair(chosen="")])})
    assert "no usable eval pair" in error.message


def test_a_source_without_a_valid_row_is_an_error_even_with_another_valid_source(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", pairs(3))
    bad = write(tmp_path / "bad.jsonl", [{"chosen": [{"role": "wizard", "content": "a"}], "rejected": "b"}])
    error = failure({"train": [good, bad]})
    assert isinstance(error, DataError)
    assert "bad.jsonl: no row fits the format preference" in error.message
    assert "wizard" in error.message


def test_columns_of_the_wrong_type_name_the_file_the_row_and_the_types(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"prompt": ["a", "b"], "chosen": [1, 2], "rejected": ["c", "d"]}), tmp_path / "x.parquet"
    )
    error = failure({"train": {"path": str(tmp_path / "x.parquet")}})
    assert error.exit_code == 4
    assert f"{tmp_path / 'x.parquet'} (rows from x.parquet:1)" in error.message
    assert "chosen (a number)" in error.message


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_an_empty_file_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    assert "no rows in split train" in failure({"train": {"path": str(tmp_path / "x.json")}}).message


def test_conversations_without_a_chat_template_are_a_usage_error(tmp_path: Path) -> None:
    error = failure({"train": write(tmp_path / "x.jsonl", pairs(3))}, tokenizer=byte_level(["<s>", "</s>"], None))
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "chatml" in str(error.remedy)


def test_wrong_column_mappings_are_errors(tmp_path: Path) -> None:
    rows = [{"q": "Why?", "good": f" So {n}.", "bad": " No."} for n in range(3)]
    source = write(tmp_path / "x.jsonl", rows)
    mapped = {**source, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}
    assert run({"train": mapped}).train["chosen_text"][:] == ["So 0.", "So 1.", "So 2."]
    missing = failure({"train": {**source, "columns": {"chosen": "best"}}})
    assert "no best" in missing.message
    assert "q, good, bad" in str(missing.remedy)
    assert "unknown column answer" in failure({"train": {**source, "columns": {"answer": "good"}}}).message


def test_sources_are_concatenated_in_order_with_distinct_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = write(tmp_path / "a" / "x.jsonl", pairs(2)), write(tmp_path / "b" / "x.jsonl", pairs(2, start=5))
    third = write(tmp_path / "y.jsonl", [text_pair(source="z")])
    prepared = run({"train": [first, second, third]})
    assert prepared.train["row"][:] == [
        *(f"{source['path']}:{number}" for source in (first, second) for number in (1, 2)),
        "y.jsonl:1",
    ]
    assert [source.rows_read for source in prepared.report.sources] == [2, 2, 1]
    assert prepared.report.sources[2].unused_columns == ["source"]
    assert "  unused columns: source" in prepared.report.lines()


def test_prepare_eval_gives_the_pairs_that_prepare_holds_out(tmp_path: Path) -> None:
    dataset = {"train": write(tmp_path / "x.jsonl", pairs(100)), "eval": {"test_size": 0.1}}
    prepared: PreparedData = run(dataset)
    held: PreparedEval = run(dataset, prepare_eval)
    assert prepared.eval is not None
    assert prepared.eval.num_rows == 10
    assert list(held.eval) == list(prepared.eval)
    assert held.report.fingerprints["eval"] == prepared.report.fingerprints["eval"]
    assert sorted(prepared.train["pair"][:] + prepared.eval["pair"][:]) == list(range(100))
    assert prepared.train["pair"][:] == sorted(prepared.train["pair"][:])
    assert prepared.report.as_dict()["eval_pairs"] == 10
    assert run({**dataset, "shuffle_seed": 7}).eval["row"][:] != prepared.eval["row"][:]
    assert run({**dataset, "eval": {"test_size": 17}}).eval.num_rows == 17
    assert run({**dataset, "eval": {"test_size": 0.001}}).eval.num_rows == 1


def test_a_dropped_pair_moves_at_most_one_other_between_train_and_eval(tmp_path: Path) -> None:
    rows = pairs(100)
    before = set(run({"train": write(tmp_path / "x.jsonl", rows), "eval": {"test_size": 20}}).eval["row"][:])
    rows[3] = {**rows[3], "chosen": []}
    after = set(run({"train": write(tmp_path / "x.jsonl", rows), "eval": {"test_size": 20}}).eval["row"][:])
    assert len(before - after) <= 1


def test_a_test_size_that_leaves_no_train_pair_is_an_error(tmp_path: Path) -> None:
    error = failure({"train": write(tmp_path / "x.jsonl", pairs(5)), "eval": {"test_size": 5}})
    assert error.exit_code == 4
    assert "leaves none to train on" in error.message


def test_prepare_eval_of_a_separate_source_reads_no_train_data(tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", pairs(4))
    result: PreparedEval = run({"train": {"path": str(tmp_path / "gone.jsonl")}, "eval": held}, prepare_eval)
    assert result.eval["row"][:] == [f"held.jsonl:{number}" for number in (1, 2, 3, 4)]
    assert result.report.train_pairs == 0
    with pytest.raises(UsageError, match="holds no pairs out"):
        run({"train": held}, prepare_eval)


def test_max_samples_is_reported(tmp_path: Path) -> None:
    report = run({"train": {**write(tmp_path / "x.jsonl", pairs(50)), "max_samples": 7}}).report
    assert (report.sources[0].available, report.rows_read, report.kept) == (50, 7, 7)
    assert "7 of 50 rows read (drawn at random, max_samples), " in report.lines()[0]


def test_fingerprints_depend_on_the_token_ids(tmp_path: Path) -> None:
    dataset = {"train": write(tmp_path / "x.jsonl", pairs(20))}
    first = run(dataset).report
    assert run(dataset).report.fingerprints == first.fingerprints
    assert run(dataset, max_length=40, max_prompt_length=20).report.fingerprints != first.fingerprints
    write(tmp_path / "x.jsonl", pairs(19) + pairs(1, start=50))
    assert run(dataset).report.fingerprints != first.fingerprints


def test_length_statistics_are_those_of_the_kept_tokens(tmp_path: Path) -> None:
    prepared = run({"train": write(tmp_path / "x.jsonl", pairs(40))})
    lengths = sorted(len(ids) for ids in prepared.train["prompt_input_ids"][:])
    figures = prepared.report.lengths["train"]["prompt"]
    assert figures == {
        "mean": round(sum(lengths) / 40, 1), "p50": lengths[19], "p95": lengths[37], "max": lengths[-1],
    }  # fmt: skip


def test_nothing_is_written_to_the_data_folder(tmp_path: Path) -> None:
    run({"train": write(tmp_path / "x.jsonl", pairs(30)), "eval": {"test_size": 3}})
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_real_sharegpt_pairs_are_all_kept(real_data: Path) -> None:
    report = run({"train": {"path": str(real_data / "sharegpt_pairs_en.json")}}, tokenizer=tiny_tokenizer()).report
    assert report.sources[0].format == "sharegpt"
    assert report.rows_read == 300
    assert set(report.dropped) <= {"identical_when_cut", "duplicate"}
    assert report.sources[0].truncated_prompts > 0


def test_mismatched_and_empty_rows_of_real_transcripts_are_found(real_data: Path) -> None:
    source = {"path": str(real_data / "hh_harmless_base_test.jsonl.gz")}
    prepared = run({"train": source}, tokenizer=tiny_tokenizer(), max_length=2048, max_prompt_length=2000)
    assert prepared.report.sources[0].format == "hh"
    assert prepared.report.rows_read == 2312
    assert prepared.report.dropped["histories_differ"] == 5
    assert prepared.report.dropped["empty_chosen"] == 4
    for row in map(expand_pair, prepared.train):
        prompt = len(row["prompt_input_ids"])
        assert prompt < len(row["chosen_input_ids"]) <= 2048
        assert row["chosen_input_ids"][:prompt] == row["rejected_input_ids"][:prompt] == row["prompt_input_ids"]
