"""Pair cache: when a second run uses it, and when it must not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.data_tokenizers import tokenizer_of
from support.tiny import pairs, tiny_tokenizer

from orpo_cli.data import pair_cache
from orpo_cli.data.prepare import PreparedData, prepare
from orpo_cli.file_lock import try_lock
from orpo_cli.recipe.schema import DatasetSection


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ORPO_PAIR_CACHE", "1")
    return tmp_path / "cache" / "pairs"


def run(
    path: Path, tokenizer: Any = None, source: dict[str, Any] | None = None, **changes: Any
) -> tuple[PreparedData, bool]:
    """The prepared pairs, and whether they came from the cache, as in a new process."""
    pair_cache._prepared_here.clear()
    limits = {"max_length": 192, "max_prompt_length": 96, **{k: v for k, v in changes.items() if k.startswith("max_")}}
    dataset = {"train": {"path": str(path), **(source or {})}, **{k: v for k, v in changes.items() if k not in limits}}
    notes: list[str] = []
    section = DatasetSection.model_validate(dataset)
    prepared = prepare(section, tokenizer or tokenizer_of("chatml"), note=notes.append, **limits)
    return prepared, any(note.startswith("using pairs that are already prepared") for note in notes)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_a_second_run_uses_the_cache(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", [*pairs(700), {**pairs(1)[0], "chosen": []}])
    first, from_cache = run(data)
    assert not from_cache
    second, from_cache = run(data)
    assert from_cache
    assert list(second.train) == list(first.train)
    assert second.report.as_dict() == first.report.as_dict()
    assert second.report.dropped == {"empty_chosen": 1}
    assert len(entries(cache_folder)) == 1


def test_a_file_that_another_split_has_now_is_read_again(tmp_path: Path, cache_folder: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", pairs(4))
    test = write(folder / "test.jsonl", pairs(4, start=50))
    assert len(run(folder)[0].train) == 4
    renamed = test.rename(folder / "train_2.jsonl")  # the digests of all files stay the same, and their order
    prepared, from_cache = run(folder)
    assert not from_cache
    assert len(prepared.train) == 8
    renamed.rename(folder / "train_3.jsonl")
    assert str(run(folder)[0].train["row"][4]).endswith("/train_3.jsonl:1")


def test_everything_that_decides_the_pairs_is_part_of_the_key(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(30))
    run(data)
    other_template = tiny_tokenizer()
    other_template.chat_template = str(other_template.chat_template).replace("assistant\n", "assistant \n")
    more_tokens = tiny_tokenizer()
    more_tokens.add_tokens(["tea"])
    for changes in (
        {"max_length": 100}, {"max_prompt_length": 20}, {"truncation_mode": "drop"}, {"source": {"max_samples": 7}},
        {"source": {"max_samples": 7}, "shuffle_seed": 3}, {"source": {"split": "train[:5]"}},
        {"tokenizer": tokenizer_of("llama3")}, {"tokenizer": other_template}, {"tokenizer": more_tokens},
    ):  # fmt: skip
        assert not run(data, **changes)[1], changes
        assert run(data, **changes)[1], changes
    write(data, pairs(29))
    assert not run(data)[1]


def test_the_path_and_the_part_are_not_part_of_the_key(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(30))
    run(data)
    (tmp_path / "moved").mkdir()
    moved = write(tmp_path / "moved" / "x.jsonl", pairs(30))
    prepared, from_cache = run(moved, eval={"path": str(moved)})
    assert from_cache
    assert [(each.part, each.path) for each in prepared.report.sources] == [("train", str(moved)), ("eval", str(moved))]
    assert len(entries(cache_folder)) == 1


def test_the_cache_can_be_disabled(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPO_PAIR_CACHE", "0")
    run(write(tmp_path / "x.jsonl", pairs(5)))
    assert not cache_folder.exists()


def test_pairs_that_are_not_cached_share_one_directory_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each directory has a lock, which takes a file handle until the process ends."""
    monkeypatch.setenv("ORPO_PAIR_CACHE", "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = write(tmp_path / "x.jsonl", pairs(30))
    prepared = [run(data)[0] for _ in range(3)]
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    assert [len(each.train) for each in prepared] == [30] * 3
    assert len({path.read_bytes() for path in tmp_path.rglob("pairs.arrow")}) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_cache_is_reported_and_skipped(tmp_path: Path, cache_folder: Path) -> None:
    cache_folder.parent.mkdir()
    cache_folder.parent.chmod(0o500)
    assert len(run(write(tmp_path / "x.jsonl", pairs(5)))[0].train) == 5


def test_a_file_at_the_cache_path_is_reported_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    cache_folder.parent.write_text("a file")
    notes: list[str] = []
    section = DatasetSection.model_validate({"train": {"path": str(write(tmp_path / "x.jsonl", pairs(5)))}})
    prepared = prepare(section, tokenizer_of("chatml"), max_length=100, max_prompt_length=50, note=notes.append)
    assert len(prepared.train) == 5
    assert any("not cached" in note for note in notes)


def test_a_failed_preparation_leaves_no_entry(tmp_path: Path, cache_folder: Path) -> None:
    from orpo_cli.errors import DataError

    with pytest.raises(DataError):
        run(write(tmp_path / "x.jsonl", [{"chosen": [{"role": "wizard", "content": "a"}], "rejected": "b"}]))
    assert entries(cache_folder) == []


def test_unused_entries_are_removed(tmp_path: Path, cache_folder: Path) -> None:
    run(write(tmp_path / "x.jsonl", pairs(5)))
    (old,) = entries(cache_folder)
    long_ago = time.time() - (pair_cache.UNUSED_DAYS + 1) * 86400
    os.utime(old, (long_ago, long_ago))
    run(write(tmp_path / "x.jsonl", pairs(6)))
    assert old not in entries(cache_folder)
    assert len(entries(cache_folder)) == 1


PROCESS = """
import sys
sys.path[:0] = sys.argv[2:]
from support.data_tokenizers import tokenizer_of
from orpo_cli.data.prepare import prepare
from orpo_cli.recipe.schema import DatasetSection
section = DatasetSection.model_validate({"train": {"path": sys.argv[1]}})
notes = []
prepared = prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=notes.append)
print(prepared.report.fingerprints["train"], len(prepared.train), any(note.startswith("using pairs that are already prepared") for note in notes))
"""


def test_concurrent_processes_prepare_once(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(3000))
    tests = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROCESS, str(data), str(tests), str(tests.parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({fingerprint for fingerprint, *_ in answers}) == 1
    assert {count for _, count, _ in answers} == {"3000"}
    assert sorted(before for *_, before in answers) == ["False", "True", "True"]
    assert len(entries(cache_folder)) == 1


def test_waiting_for_another_process_is_reported(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(5))
    run(data)
    (entry,) = entries(cache_folder)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if "waiting" in text:
            assert lock is not None
            lock.release()

    pair_cache._prepared_here.clear()
    lock = try_lock(entry.with_name(f"{entry.name}.lock"))
    section = DatasetSection.model_validate({"train": {"path": str(data)}})
    prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=note)
    assert notes == [
        "waiting for another process that prepares the same pairs",
        f"using pairs that are already prepared, in {cache_folder}",
    ]


def test_the_use_of_the_cache_is_noted_once_for_all_sources(tmp_path: Path, cache_folder: Path) -> None:
    train, held_out = write(tmp_path / "train.jsonl", pairs(9)), write(tmp_path / "eval.jsonl", pairs(4, start=50))
    section = DatasetSection.model_validate({"train": [{"path": str(train)}], "eval": {"path": str(held_out)}})
    notes: list[list[str]] = [[], []]
    for each in notes:
        pair_cache._prepared_here.clear()
        prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=each.append)
    assert notes[1] == [f"using pairs that are already prepared, in {cache_folder}"]


DAMAGES = {
    "a flipped bit of a token": lambda entry: flip(entry / "pairs.arrow"),
    "truncated pairs": lambda entry: (entry / "pairs.arrow").write_bytes((entry / "pairs.arrow").read_bytes()[:9000]),
    "no pairs": lambda entry: (entry / "pairs.arrow").unlink(),
    "an empty report": lambda entry: (entry / "report.json").write_text("{}"),
    "a truncated report": lambda entry: (entry / "report.json").write_text('{"part": "tr'),
    "a report with other types": lambda entry: (entry / "report.json").write_text('{"dropped": 5, "kept": "x"}'),
    "no report": lambda entry: (entry / "report.json").unlink(),
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_prepared_again(damage: str, tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(40))
    first, _ = run(data)
    expected, report = list(first.train), first.report.as_dict()
    (entry,) = entries(cache_folder)
    DAMAGES[damage](entry)
    second, from_cache = run(data)
    assert not from_cache
    assert list(second.train) == expected
    assert second.report.as_dict() == report
    assert run(data)[1]


def test_an_entry_that_is_removed_while_it_is_mapped_stays_usable(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(40))
    first, _ = run(data)
    expected = list(first.train)
    shutil.rmtree(cache_folder)
    assert list(first.train) == expected
    assert list(run(data)[0].train) == expected


def test_a_cache_that_is_removed_while_it_is_written_is_reported(tmp_path: Path, cache_folder: Path) -> None:
    data = write(tmp_path / "x.jsonl", pairs(40))
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if text.startswith("reading"):
            shutil.rmtree(cache_folder, ignore_errors=True)

    section = DatasetSection.model_validate({"train": {"path": str(data)}})
    prepared = prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=note)
    assert len(prepared.train) == 40
    assert any("the pairs are not cached" in text for text in notes)


def test_an_entry_that_is_removed_before_it_is_mapped_is_prepared_again(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "x.jsonl", pairs(40))
    expected = list(run(data)[0].train)
    pair_cache._prepared_here.clear()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if text.startswith("using pairs"):
            (entries(cache_folder)[0] / "pairs.arrow").unlink(missing_ok=True)

    section = DatasetSection.model_validate({"train": {"path": str(data)}})
    prepared = prepare(section, tokenizer_of("chatml"), max_length=192, max_prompt_length=96, note=note)
    assert list(prepared.train) == expected
    assert "pairs.arrow is missing" in "".join(notes)
