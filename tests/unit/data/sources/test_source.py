"""Opening sources: local paths, folders, saved datasets, fingerprints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from support.data_sources import ROWS, dataset_with_image, failure, lines, load, write

from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.schema import Source


@pytest.mark.parametrize(
    "path",
    [
        "./none",
        "../none",
        "~/none-of-this",
        "none.jsonl",
        "none.csv.gz",
        "a/b/c",
        "none",
        "json",
        "x.txt",
        "a\\b.jsonl",
    ],
)
def test_a_local_looking_path_is_never_sent_to_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = failure(path)
    assert isinstance(error, DataError)
    assert str(Path(path).expanduser().absolute()) in str(error)
    assert "no such file" in str(error)


def test_an_existing_folder_has_priority_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    write(tmp_path / "org" / "name" / "x.jsonl", lines(ROWS))
    assert [row for _, row in load("org/name")] == ROWS


def test_an_unsupported_kind_of_file_is_an_error(tmp_path: Path) -> None:
    assert "Known: .json" in str(failure(write(tmp_path / "x.txt", "hello")).remedy)
    error = failure(write(tmp_path / "x.jsonl.zip", b"PK\x03\x04" + bytes(40)))
    assert str(error) == f"{tmp_path / 'x.jsonl.zip'}: not a data file but a zip archive."
    assert "unzip" in str(error.remedy)


def test_hub_options_for_a_local_path_are_an_error(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "x.jsonl", lines(ROWS)), revision="main")
    assert isinstance(error, UsageError)
    assert "revision would do nothing" in str(error)


def test_a_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train-0.jsonl", lines(ROWS[:2]))
    write(folder / "train-1.jsonl.gz", lines(ROWS[2:5]))
    write(folder / "test.json", json.dumps(ROWS[5:]))
    write(folder / "README.md", "not data")
    assert load(folder) == [
        ("data/train-0.jsonl:1", ROWS[0]), ("data/train-0.jsonl:2", ROWS[1]), ("data/train-1.jsonl.gz:1", ROWS[2]),
        ("data/train-1.jsonl.gz:2", ROWS[3]), ("data/train-1.jsonl.gz:3", ROWS[4]),
    ]  # fmt: skip
    assert [row for _, row in load(folder, split="test")] == ROWS[5:]
    assert [row for _, row in load(folder, split="train[:1]+test[1:]")] == [ROWS[0], ROWS[6]]
    assert "no split dev; it has train, test" in str(failure(folder, split="dev"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "contains no data file" in str(failure(empty))


@pytest.mark.parametrize("card", [None, "data_files: tr*", "data_dir: .", "data_files: ['train.jsonl']"])
@pytest.mark.parametrize("name", ["pairs [v1]", "a*b?"])
def test_signs_of_a_pattern_in_the_path_of_a_folder_are_its_name(name: str, card: str | None, tmp_path: Path) -> None:
    for folder, rows in ((name, ROWS[:2]), ("pairs v", ROWS[2:]), ("a-b-", ROWS[2:])):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.jsonl", lines(rows))
    if card:
        write(tmp_path / name / "README.md", f"---\nconfigs:\n- config_name: default\n  {card}\n---\n")
    assert [row for _, row in load(tmp_path / name)] == ROWS[:2]


def test_a_saved_dataset_is_read_with_its_splits(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load(tmp_path / "one") == [(f"one:{number}", row) for number, row in enumerate(ROWS, 1)]
    DatasetDict({"train": Dataset.from_list(ROWS[:4]), "test": Dataset.from_list(ROWS[4:])}).save_to_disk(
        tmp_path / "two"
    )
    assert [row for _, row in load(tmp_path / "two", split="test")] == ROWS[4:]


def test_an_image_of_a_saved_dataset_is_read_as_it_is_stored(tmp_path: Path) -> None:
    dataset_with_image().save_to_disk(tmp_path / "one")
    assert [row["images"] for _, row in load(tmp_path / "one")] == [[{"bytes": b"tea", "path": None}], []]


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path / "x.jsonl", lines(ROWS))
    with open_source(Source(path=str(path)), "x", lambda _: None) as found:
        assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
        assert found.location == str(path)


def test_a_damaged_file_of_a_saved_dataset_is_named(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    (file,) = (tmp_path / "one").glob("*.arrow")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    error = failure(tmp_path / "one")
    assert error.exit_code == 4
    assert f"{file}: cannot be read" in str(error)
    file.write_bytes(content)
    for damaged in ("{}", '{"_data_fil', "[]"):
        (tmp_path / "one" / "state.json").write_text(damaged)
        error = failure(tmp_path / "one")
        assert error.exit_code == 4
        assert str(tmp_path / "one") in str(error)


def test_the_fingerprint_of_a_saved_dataset_covers_its_files(tmp_path: Path) -> None:
    def fingerprint() -> str | None:
        with open_source(Source(path=str(tmp_path / "one")), "x", lambda _: None) as found:
            return found.fingerprint

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    before = fingerprint()
    assert fingerprint() == before
    (file,) = (tmp_path / "one").glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"It is 2.", b"It is 3."))
    assert fingerprint() != before


def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines(ROWS))
    with open_source(Source(path=str(path)), "x", lambda _: None) as found:
        found.check_unchanged()
        path.touch()  # the same content
        found.check_unchanged()
        with path.open("a") as file:
            file.write(lines(ROWS[:1]))
        with pytest.raises(DataError, match=r"x\.jsonl: the file changed while it was read"):
            found.check_unchanged()
