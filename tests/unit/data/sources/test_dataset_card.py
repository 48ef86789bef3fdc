"""Downloaded dataset repositories: configurations, splits and patterns of their cards, as ``datasets`` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from support.data_sources import ROWS, failure, lines, load, write

from orpo_cli.data.sources.source import open_source
from orpo_cli.errors import DataError, UsageError
from orpo_cli.recipe.schema import Source

FILES = {
    "en/train.jsonl": ROWS[:1],
    "en/test.jsonl": ROWS[1:2],
    "de/train-0.jsonl": ROWS[2:3],
    "de/train-1.jsonl": ROWS[3:4],
    "extra/more.jsonl": ROWS[4:5],
}
TRAIN_FILES = ("de/train-0.jsonl", "de/train-1.jsonl", "en/train.jsonl")
TWO = "- config_name: en\n  data_files: en/train*\n- config_name: de\n  data_files: de/*.jsonl\n"


def repository(folder: Path, configs: str, card: str = "README.md") -> Path:
    for name, rows in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, lines(rows))
    metadata = f"license: mit\nconfigs:\n{configs}"
    write(folder / card, f"---\n{metadata}---\n# Card\n" if card.endswith(".md") else metadata)
    return folder


@pytest.mark.parametrize(
    ("configs", "names", "splits"),
    [
        (TWO, ("en", "de"), ("train",)),
        ("- config_name: default\n  data_files: de/train-1.jsonl\n- config_name: en\n  data_files: en/*\n", (None, "en"), ("train",)),
        ("- config_name: a\n  default: true\n  data_files: en/test.jsonl\n- config_name: b\n", (None, "a", "b"), ("train", "test")),
        ("- config_name: only\n  data_files:\n  - split: train_prefs\n    path: [de/train-1.jsonl, en/train.jsonl]\n"
         "  - split: test_prefs\n    path: en/te*\n", (None, "only"), ("train_prefs", "test_prefs")),
        ("- config_name: en\n  data_dir: en\n- config_name: de\n  data_dir: de\n  default: true\n", (None, "en", "de"), ("train", "test")),
        ("- config_name: all\n  data_files: '**/*.jsonl'\n", (None,), ("train",)),
        ("- config_name: lists\n  data_files: [extra/*, en/train.jsonl]\n", (None,), ("train",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_is_read_as_datasets_reads_it(
    configs: str, names: tuple[str | None, ...], splits: tuple[str, ...], card: str, tmp_path: Path
) -> None:
    folder = repository(tmp_path / "ds", configs, card)
    for name in names:
        expected = load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        for split in splits:
            if split in expected:
                found = [row for _, row in load(folder, name=name, split=split)]
                assert found == list(expected[split]), (name, split)
            else:
                assert f"no split {split}" in str(failure(folder, name=name, split=split))


def test_a_card_with_several_configurations_needs_a_name(tmp_path: Path) -> None:
    folder = repository(tmp_path / "ds", TWO)
    error = failure(folder)
    assert error.exit_code == 4
    assert str(error) == f"{folder}: its card has the configurations en, de, and none is the default."
    assert "name: en" in str(error.remedy)
    error = failure(folder, name="dee")
    assert "no configuration 'dee'; it has en, de" in str(error)
    assert error.remedy == "Did you mean `de`?"
    with open_source(Source(path=str(folder), name="de"), "ds", lambda _: None) as found:
        assert found.location == f"{folder} (configuration de)"
        assert [row.name for row in found.splits["train"]()] == ["ds/de/train-0.jsonl:1", "ds/de/train-1.jsonl:1"]


def test_several_configurations_of_one_folder_are_several_sources(tmp_path: Path) -> None:
    folder = repository(tmp_path / "ds", TWO)
    assert [load(folder, name=name)[0] for name in ("de", "en")] == [
        ("ds/de/train-0.jsonl:1", ROWS[2]),
        ("ds/en/train.jsonl:1", ROWS[0]),
    ]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["de", "en"])
def test_a_configuration_can_be_streamed(name: str, streaming: bool, tmp_path: Path) -> None:
    folder = repository(tmp_path / "ds", TWO)
    assert [row for _, row in load(folder, name=name, streaming=streaming, max_samples=1)]


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ("- config_name: en\n  data_files: fr/*\n", "configuration en: no file matches its data_files"),
        ("- config_name: en\n  data_files: 5\n", "configuration en: its data_files cannot be read"),
        ("- config_name: en\n  data_files:\n  - path: en/*\n", "configuration en: its data_files cannot be read"),
        ("- config_name: en\n  data_files: README.md\n", "configuration en: it has no data file of a supported kind"),
        ("- config_name: en\n  data_files: hf://datasets/a/b/c.jsonl\n", "c.jsonl is not in the folder"),
        ("- config: en\n", "configs is not a list of entries with a config_name"),
        ("  en: x\n", "configs is not a list of entries with a config_name"),
        ("- config_name: [en\n", "its metadata is not YAML"),
        ("- config_name: a\n  default: true\n- config_name: default\n", "several are the default (a, default)"),
    ],
)
def test_a_card_that_cannot_be_followed_is_an_error(configs: str, message: str, tmp_path: Path) -> None:
    error = failure(repository(tmp_path / "ds", configs))
    assert isinstance(error, DataError)
    assert message in str(error)
    assert error.remedy


@pytest.mark.parametrize(
    "card", ["# no metadata\n", "---\nlicense: mit\n---\n", "---\nnot: [yaml\n---\ntext", "---\n- a\n---\n", ""]
)
def test_a_card_without_configurations_changes_nothing(card: str, tmp_path: Path) -> None:
    folder = repository(tmp_path / "ds", TWO)
    write(folder / "README.md", card)
    said: list[str] = []
    with open_source(Source(path=str(folder)), "ds", said.append) as found:
        assert [row.name for row in found.splits["train"]()] == [f"ds/{name}:1" for name in TRAIN_FILES]
    assert said == [f"{folder}: not read, since the name of no split is in their path: extra/more.jsonl"]
    error = failure(folder, name="en")
    assert isinstance(error, UsageError)
    assert "no dataset card (README.md) names configurations, so name: en selects nothing" in str(error)


def test_settings_of_a_configuration_that_are_not_applied_are_said(tmp_path: Path) -> None:
    folder = repository(tmp_path / "ds", "- config_name: en\n  data_files: en/*\n  sep: ','\n  skiprows: 3\n")
    said: list[str] = []
    with open_source(Source(path=str(folder)), "ds", said.append):
        assert f"{folder}: the settings skiprows of the configuration en are not applied" in said


def test_a_folder_of_saved_datasets_lists_them(tmp_path: Path) -> None:
    saved: dict[str, Any] = {
        "en": Dataset.from_list(ROWS[:2]),
        "de": DatasetDict({"train": Dataset.from_list(ROWS[2:])}),
    }
    for name, dataset in saved.items():
        dataset.save_to_disk(tmp_path / "ds" / name)
    error = failure(tmp_path / "ds")
    assert "contains saved datasets: de, en" in str(error)
    assert str(tmp_path / "ds" / "de") in str(error.remedy)
    assert [row for _, row in load(tmp_path / "ds" / "de", streaming=True)] == ROWS[2:]
    assert "selects nothing" in str(failure(tmp_path / "ds" / "de", name="de"))
